"""The files of self-service seats; those of all other seats are what they were before there was self-service."""

import hashlib
import json
from typing import Any

import pytest
import yaml

from provisioner.domain.seat.fill import fill
from provisioner.domain.seat.render import render
from provisioner.domain.seat.slotted import Documents
from provisioner.domain.values.limits import SeatLimits
from provisioner.domain.values.problem import ProblemError
from tests.builders import a_locked_image, a_uuid
from tests.domain.seats import DOCUMENTS, TEMPLATES, a_seat

ROSTER: dict[str, Any] = {"name": "ml_anna", "lab": "ml", "person": "anna"}
SEATS: dict[str, dict[str, Any]] = {
    "node": {},
    "shared": {**ROSTER, "gpus": (a_uuid("n1/0"), a_uuid("n1/1")), "gpu_driver": "cdi", "shared": True},
    "without_gpus": {
        **ROSTER,
        "gpus": (),
        "limits": SeatLimits(memory="2g", cpus=2, pids=9, shm="1g"),
        "start_interval": False,
    },
    "on_the_lan": {"binds": {"ssh": "192.168.7.9", "jupyter": "192.168.7.9"}},
}
# Of all files. Another digest is another generation: every seat is started anew at the next rollout. Change them only
# where that is wanted.
DIGESTS = {
    "node": "7106b9549dd390595cc2db130357ad4a8722e1f71d120c62a0598cd5605b895a",
    "shared": "1edd758a79c290f6b800859c3c5161c1fff5ea37872b8a8a0d409811273c7c75",
    "without_gpus": "15192e8f5d9b71dc8ecc1b377c8661761c65e9fc73afc92f7b04d4de33aab51d",
    "on_the_lan": "6a71c7bb609b9555926a9f4dba4ba10988ac86d2753bf7dff74fd9151f8817c1",
}


def files_of(templates: dict[str, str] = TEMPLATES, **changes: Any) -> dict[str, str]:
    return render(a_seat(**changes), a_locked_image(), templates).files


@pytest.mark.parametrize("name", SEATS)
def test_files_of_seats_of_nodes_and_rosters_are_what_they_were(name: str) -> None:
    assert hashlib.sha256(json.dumps(files_of(**SEATS[name]), sort_keys=True).encode()).hexdigest() == DIGESTS[name]


@pytest.mark.parametrize("name", SEATS)
def test_what_ends_idle_kernels_is_in_no_file_of_another_seat(name: str) -> None:
    assert files_of(**SEATS[name], cull_s=3600) == files_of(**SEATS[name])


@pytest.mark.parametrize("name", SEATS)
def test_files_that_differ_in_a_self_service_seat(name: str) -> None:
    usual, own = files_of(**SEATS[name]), files_of(**SEATS[name], kind="self_service", cull_s=3600)
    assert usual.keys() == own.keys()
    assert {name for name in own if own[name] != usual[name]} == {
        "compose.yaml",
        "health.py",
        "jupyter_server_config.py",
        "notice-extension.js",
        "notice-extension.json",
        "notice.sh",
    }
    lines = zip(own["compose.yaml"].splitlines(), usual["compose.yaml"].splitlines(), strict=True)
    assert {pair for pair in lines if pair[0] != pair[1]} == {('    restart: "no"', '    restart: "unless-stopped"')}
    assert all("lease.txt" in own[name] for name in ("notice.sh", "notice-extension.js"))


@pytest.mark.parametrize(("kind", "policy"), [("", "unless-stopped"), ("self_service", "no")])
def test_only_the_engine_of_other_seats_starts_them_by_itself(kind: str, policy: str) -> None:
    services = yaml.safe_load(files_of(kind=kind)["compose.yaml"])["services"]
    assert {service["restart"] for service in services.values()} == {policy}


@pytest.mark.parametrize(
    ("kind", "policy"),
    [("", '"no"'), ("self_service", "unless-stopped"), ("", "always"), ("self_service", "on-failure"), ("", "no")],
)
def test_a_template_with_the_policy_of_another_kind_is_refused(kind: str, policy: str) -> None:
    own = TEMPLATES["compose.yaml.j2"].replace("restart: {{ restart }}", f"restart: {policy}")
    with pytest.raises(ProblemError, match=r"services\.jupyter\.restart"):
        files_of({**TEMPLATES, "compose.yaml.j2": own}, kind=kind)


def test_a_template_from_before_still_renders_the_seats_of_nodes_and_rosters() -> None:
    own = TEMPLATES["compose.yaml.j2"].replace("restart: {{ restart }}", "restart: unless-stopped")
    bundle = Documents({**TEMPLATES, "compose.yaml.j2": own}).bundle(a_seat(), a_locked_image())
    assert bundle.files == files_of()


def test_self_service_seats_have_a_document_of_their_own_whatever_ends_their_kernels() -> None:
    usual, own, other = (
        DOCUMENTS.bundle(a_seat(kind=kind, cull_s=cull_s), a_locked_image())
        for kind, cull_s in (("", 0), ("self_service", 0), ("self_service", 3600))
    )
    assert own.document is other.document
    assert usual.document.digest != own.document.digest
    config = "jupyter_server_config.py"
    assert own.files[config] == TEMPLATES[config]
    added = other.files[config].removeprefix(TEMPLATES[config]).splitlines()
    assert added == [
        "c.MappingKernelManager.cull_idle_timeout = 3600",
        "c.MappingKernelManager.cull_busy = False",
        "c.MappingKernelManager.cull_connected = True",
    ]


@pytest.mark.parametrize("cull_s", [-1, 10**10, 1.5, "3600\nimport os", True])
def test_a_time_that_is_no_number_of_seconds_does_not_become_code(cull_s: Any) -> None:
    document = DOCUMENTS.bundle(a_seat(kind="self_service"), a_locked_image()).document
    values = {**a_seat(kind="self_service").model_dump(mode="json"), "cull_s": cull_s}
    with pytest.raises(ValueError, match="does not fit the slot count"):
        fill({"files": document.files}, values)
