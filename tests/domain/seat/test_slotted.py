"""A filled document is what the templates render, for every seat; what would not be is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.seat import fill
from provisioner.domain.seat.render import render
from provisioner.domain.seat.seat import Seat
from provisioner.domain.seat.slotted import Documents
from provisioner.domain.values.limits import OpenFiles, SeatLimits
from provisioner.domain.values.problem import ProblemError
from tests.builders import a_locked_image, a_uuid
from tests.domain.seats import DOCUMENTS, KEY, TEMPLATES, a_seat

LAN = {"ssh": "192.168.7.9", "jupyter": "192.168.7.9"}
LOOPBACK = dict.fromkeys(LAN, "127.0.0.1")
NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,20}", fullmatch=True)
SIZES = st.integers(1, 4096).flatmap(lambda number: st.sampled_from([f"{number}m", f"{number}g"]))
GPUS = st.lists(st.sampled_from([a_uuid(f"n1/{index}") for index in range(8)]), unique=True).map(tuple)
PORTS = st.tuples(st.integers(1024, 65535), st.integers(1024, 65535)).map(
    lambda pair: {"ssh": pair[0], "jupyter": pair[1]}
)
LIMITS = st.builds(
    SeatLimits,
    memory=st.none() | SIZES,
    cpus=st.none() | st.sampled_from([0.5, 1, 2.25, 64]),
    pids=st.integers(1, 1 << 22),
    shm=SIZES,
    nofile=st.none() | st.builds(OpenFiles, soft=st.integers(1, 1 << 20), hard=st.integers(1 << 20, 1 << 30)),
)


@st.composite
def seats(draw: st.DrawFn) -> Seat:
    user = draw(NAMES)
    return a_seat(
        name=draw(NAMES),
        node=draw(st.sampled_from(["n1", "gpu-1.lab.example", "节点一", "n_1", "a" * 80])),
        person=draw(st.sampled_from(["", user, "2024012345", "li@example.edu"])),
        user=user,
        uid=draw(st.integers(1, 2**31 - 2)),
        gid=draw(st.integers(1, 2**31 - 2)),
        home=f"/srv/homes/{user}",
        gpus=draw(GPUS),
        shared=draw(st.booleans()),
        gpu_driver=draw(st.sampled_from(["nvidia", "cdi"])),
        ports=draw(PORTS),
        binds=draw(st.sampled_from([LAN, LOOPBACK, LAN | {"jupyter": "127.0.0.1"}])),
        subnet=f"10.213.{draw(st.integers(0, 255))}.{draw(st.integers(0, 15)) * 16}/28",
        authorized_keys=tuple(f"{KEY} {number}" for number in range(draw(st.integers(0, 3)))),
        limits=draw(LIMITS),
        start_interval=draw(st.booleans()),
        kind=draw(st.sampled_from(["", "self_service"])),
        cull_s=draw(st.sampled_from([0, 3600, 14400])),
    )


@given(seats())
def test_a_filled_document_is_what_the_templates_render(seat: Seat) -> None:
    bundle = DOCUMENTS.bundle(seat, a_locked_image())
    assert bundle.files == render(seat, a_locked_image(), TEMPLATES).files


def test_seats_of_one_image_share_a_document() -> None:
    documents = Documents(TEMPLATES)
    first, second, other = (
        documents.bundle(a_seat(user="ann"), a_locked_image()),
        documents.bundle(a_seat(user="bob", gpus=(), limits=SeatLimits()), a_locked_image()),
        documents.bundle(a_seat(start_interval=False), a_locked_image()),
    )
    assert first.document is second.document
    assert first.document.digest != other.document.digest


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"user": "a b"}, "services.jupyter.working_dir"),
        ({"user": "x", "home": "/etc/x"}, "must not be a system folder"),
        ({"home": "/srv/../etc"}, "must not be a system folder"),
        ({"home": '/srv/x"y'}, "services.jupyter.volumes.0.source"),
        ({"uid": 0}, "services.jupyter.user"),
        ({"gid": 2**31}, "an account has a number up to"),
        ({"gpus": ("all",)}, "device_ids"),
        ({"binds": {"ssh": "0.0.0.0", "jupyter": "127.0.0.1"}}, "must be the address of one interface"),
        ({"subnet": "10.0.0.1/28"}, "not an IPv4 network"),
        ({"ports": {"ssh": 22, "jupyter": 2222}}, "published"),
        ({"name": "A$B"}, "name:"),
        ({"authorized_keys": (f"{KEY}\nssh-rsa x",)}, "not one line of a public key"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_where_it_stands(change: dict[str, Any], problem: str) -> None:
    DOCUMENTS.bundle(a_seat(), a_locked_image())
    with pytest.raises(ProblemError, match=problem):
        DOCUMENTS.bundle(a_seat(**change), a_locked_image())


def test_a_value_that_only_the_slot_refuses_is_refused() -> None:
    limits = SeatLimits(cpus=1e-9)
    with pytest.raises(ProblemError, match="the seat demo-student: '1e-09' does not fit the slot cpus"):
        DOCUMENTS.bundle(a_seat(limits=limits), a_locked_image())


COMPOSE = TEMPLATES["compose.yaml.j2"]


@pytest.mark.parametrize(
    "line",
    [
        '{% if seat.gpus %}\n      CARDS: "1"\n{% endif %}',
        "      CULL: {{ seat.cull_s | string }}",
        '{% if seat.uid > 20000 %}\n      LATE: "1"\n{% endif %}',
        "      HALF: {{ (seat.limits.pids // 2) | string }}",
        "      SHORT: {{ seat.user[:3] }}",
        "      CPUS: {{ seat.capacity.cpus | string }}",
        "      SHARED: {{ seat.shared | string }}",
        "      KEYS: {{ seat.authorized_keys | length | string }}",
    ],
)
def test_a_template_that_computes_with_values_is_not_slotted(line: str) -> None:
    own = COMPOSE.replace("      SHELL: /bin/bash\n", f"      SHELL: /bin/bash\n{line}\n")
    with pytest.raises(ProblemError, match=r"template_not_slotted: compose\.yaml: line \d+"):
        Documents({**TEMPLATES, "compose.yaml.j2": own}).bundle(a_seat(), a_locked_image())


def test_a_template_may_write_the_plain_values_of_a_seat() -> None:
    names = ("name", "node", "person", "user", "home", "subnet")
    lines = "".join(f"      SEAT_{name}: {{{{ seat.{name} }}}}\n" for name in names)
    own = {
        **TEMPLATES,
        "compose.yaml.j2": COMPOSE.replace("      SHELL: /bin/bash\n", f"{lines}      SHELL: /bin/bash\n"),
    }
    documents = Documents(own)
    for seat in (a_seat(person="li@example.edu", node="gpu1"), a_seat(person="", node="n_2", user="x")):
        assert documents.bundle(seat, a_locked_image()).files == render(seat, a_locked_image(), own).files


def test_an_image_whose_digest_has_the_digits_of_a_port_gets_the_same_files() -> None:
    digits = "".join(str(port) for port in range(90001, 90013))
    image = a_locked_image()
    image = image.model_copy(update={"lab": f"{image.lab.partition('@')[0]}@sha256:{digits}0000"})
    assert DOCUMENTS.bundle(a_seat(), image).files == render(a_seat(), image, TEMPLATES).files


def test_a_document_names_its_slots_only() -> None:
    document = DOCUMENTS.bundle(a_seat(), a_locked_image()).document
    used = {part for parts in document.files.values() for part in parts[1::2]}
    assert used <= set(fill.slot_values(a_seat().model_dump(mode="json")))
    assert {"deploy", "authorized_keys", "mem_limit", "visible_devices", "ssh_port"} <= used


@pytest.mark.parametrize("document", [{"files": {"x": ["", "nothing", ""]}}])
def test_an_unknown_slot_is_an_error(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="there is no slot 'nothing'"):
        fill.fill(document, a_seat().model_dump(mode="json"))
