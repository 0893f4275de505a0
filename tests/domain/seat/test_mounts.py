"""Mounts in the files of a seat: exactly those of lab.yml, and no other way to get one."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.lab.mounts import Mount
from provisioner.domain.rollout.plan import files_diff
from provisioner.domain.seat.compose_text import quoted
from provisioner.domain.seat.options import SeatOptions
from provisioner.domain.seat.proof import prove
from provisioner.domain.seat.render import MOUNTS_FILE, render
from provisioner.domain.seat.seat import SERVICES, Seat
from provisioner.domain.seat.slotted import Documents
from provisioner.domain.values.problem import ProblemError
from tests.builders import a_locked_image
from tests.domain.seats import TEMPLATES, a_seat

DATA = Mount(source="/mnt/nfs/imagenet", target="/data")
LATE = Mount(source="/net", target="/net", mounted=True, autofs=True)
OWN = Mount(source="/scratch", target="/scratch", read_only=False)
TAIL = "{% endfor %}\n{% if devices %}"  # the end of the list of volumes in the template


def a_seat_with(*mounts: Mount, **changes: Any) -> Seat:
    return a_seat(options=SeatOptions(mounts=mounts), **changes)


def volumes(seat: Seat, service: str = "ssh") -> list[dict[str, Any]]:
    project = yaml.safe_load(render(seat, a_locked_image(), TEMPLATES).files["compose.yaml"])
    found: list[dict[str, Any]] = project["services"][service]["volumes"]
    return found


def bind(source: str, target: str, *, read_only: bool, **options: str) -> dict[str, Any]:
    return {
        "type": "bind",
        "source": source,
        "target": target,
        "read_only": read_only,
        "bind": {"create_host_path": False, **options},
    }


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_has_the_mounts_after_its_own(service: str) -> None:
    found, own = volumes(a_seat_with(DATA, LATE, OWN), service), volumes(a_seat(), service)
    assert found == [
        *own,
        bind("/mnt/nfs/imagenet", "/data", read_only=True),
        bind("/net", "/net", read_only=True, propagation="rslave"),
        bind("/scratch", "/scratch", read_only=False),
    ]


@pytest.mark.parametrize(
    ("mounts", "kind", "policy"),
    [
        ((), "", "unless-stopped"),
        ((DATA,), "", "unless-stopped"),
        ((DATA, LATE), "", "no"),
        ((), "self_service", "no"),
    ],
)
def test_the_engine_starts_no_seat_that_waits_for_a_mount(mounts: tuple[Mount, ...], kind: str, policy: str) -> None:
    files = render(a_seat_with(*mounts, kind=kind), a_locked_image(), TEMPLATES).files
    services = yaml.safe_load(files["compose.yaml"])["services"].values()
    assert {service["restart"] for service in services} == {policy}


def test_a_seat_without_mounts_has_no_file_of_them() -> None:
    assert MOUNTS_FILE not in render(a_seat(), a_locked_image(), TEMPLATES).files


@pytest.mark.parametrize("kind", ["", "self_service"])
def test_a_document_has_the_mounts_for_the_node(kind: str) -> None:
    bundle = Documents(TEMPLATES).bundle(a_seat_with(DATA, LATE, kind=kind), a_locked_image())
    assert json.loads(bundle.files[MOUNTS_FILE]) == [DATA.model_dump(), LATE.model_dump()]
    assert bundle.files == render(bundle.seat, a_locked_image(), TEMPLATES).files


def test_a_source_with_the_number_of_a_slot_stays_text() -> None:
    mount = Mount(source="/data/90001", target="/data")
    assert '"/data/90001"' in Documents(TEMPLATES).bundle(a_seat_with(mount), a_locked_image()).files["compose.yaml"]


def test_a_plan_shows_which_mount_changes() -> None:
    before, after = (
        render(a_seat_with(*mounts), a_locked_image(), TEMPLATES).files for mounts in ((DATA,), (DATA, OWN))
    )
    added = [line for line in files_diff(before, after).splitlines() if line.startswith("+") and "/scratch" in line]
    assert added
    assert {line.strip("+ ").split(":")[0] for line in added} >= {"source", "target"}


@given(
    st.sampled_from(["/", "/etc", "/data", "/mnt/nfs", "/var/run/docker.sock", "/home/li", "./token", "../../../x"]),
    st.sampled_from(["/data", "/x", "/etc/shadow", "/home/other"]),
    st.booleans(),
)
def test_no_template_adds_a_mount_or_changes_one(source: str, target: str, read_only: bool) -> None:
    added = quoted(bind(source, target, read_only=read_only))
    assert TAIL in TEMPLATES["compose.yaml.j2"]
    hostile = TEMPLATES["compose.yaml.j2"].replace(TAIL, "{% endfor %}\n      - " + added + "\n{% if devices %}")
    for mounts in ((), (DATA,), (DATA, OWN)):
        with pytest.raises(ProblemError) as refused:
            render(a_seat_with(*mounts), a_locked_image(), {**TEMPLATES, "compose.yaml.j2": hostile})
        assert {problem.code for problem in refused.value.problems} == {"compose_refused"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('source: "/mnt/nfs/imagenet"', 'source: "/mnt/nfs"'),
        ('target: "/data"', 'target: "/other"'),
        ('propagation: "rslave"', 'propagation: "rshared"'),
        ('propagation: "rslave"', 'propagation: "private"'),
        ('        propagation: "rslave"\n', ""),
        ("create_host_path: false", "create_host_path: true"),
        ('restart: "no"', 'restart: "unless-stopped"'),
    ],
)
def test_each_part_of_a_mount_is_proved(old: str, new: str) -> None:
    seat = a_seat_with(DATA, LATE)
    text = render(seat, a_locked_image(), TEMPLATES).files["compose.yaml"]
    assert old in text
    with pytest.raises(ProblemError, match=r"compose|it is|should|source|target"):
        prove(text.replace(old, new), seat, a_locked_image())


def test_a_read_only_mount_is_not_made_writable() -> None:
    seat = a_seat_with(DATA)
    text = render(seat, a_locked_image(), TEMPLATES).files["compose.yaml"]
    head, _, tail = text.rpartition("read_only: true")
    with pytest.raises(ProblemError, match="read_only"):
        prove(f"{head}read_only: false{tail}", seat, a_locked_image())
