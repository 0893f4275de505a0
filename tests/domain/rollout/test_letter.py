"""Who gets a letter, what goes into it, and what is refused: its lines become configuration of ssh."""

import re
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.lab.lock import Placement
from provisioner.domain.people.person import Person
from provisioner.domain.rollout.letter import Letter, build_letters, contact_text, letter_name
from provisioner.domain.rollout.report import build_access
from provisioner.domain.rollout.status import LabStatus, SeatStatus
from provisioner.domain.values.problem import Problem
from tests.builders import a_uuid
from tests.domain.letters import HOST_KEY, a_letter, a_seat_status, an_access
from tests.domain.seats import a_seat


def build(seat: SeatStatus, person: str = "anna", jump: str | None = None) -> Letter | Problem:
    status = LabStatus(lab="ml", seats=(seat,))
    built = build_letters([Person(id=person)], status, {seat.node: jump})
    return built.written.get(person) or built.missing[person]


def test_letter_has_the_values_of_the_seat_and_of_the_row() -> None:
    person = Person(id="anna", until=date(2027, 1, 31))
    seat = a_seat_status(gpus=(a_uuid("x"),), shared=True)
    built = build_letters([person], LabStatus(lab="ml", seats=(seat,)), {}, "Li Lei")
    assert built.written == {
        "anna": a_letter(gpus=(a_uuid("x"),), shared=True, until=date(2027, 1, 31), contact="Li Lei")
    }
    assert built.missing == {}


def test_letter_takes_the_address_of_ssh_from_the_seat() -> None:
    seat = a_seat(user="anna", binds={"jupyter": "127.0.0.1", "ssh": "198.18.0.11"})
    letter = build(a_seat_status(access=build_access(seat, HOST_KEY)))
    assert isinstance(letter, Letter)
    assert (letter.host, letter.port, letter.user) == ("198.18.0.11", seat.ports["ssh"], "anna")


@pytest.mark.parametrize("seats", [(), (a_seat_status(),)])
def test_a_stopped_person_gets_the_reason_instead(seats: tuple[SeatStatus, ...]) -> None:
    places = {"anna": Placement(node="gpu1", stopped="exam"), "bob": Placement(node="gpu1", stopped="exam")}
    built = build_letters([Person(id="anna")], LabStatus(lab="ml", seats=seats), {}, "", places)
    assert (built.written, list(built.missing)) == ({}, ["anna"])
    assert (built.missing["anna"].code, built.missing["anna"].what) == ("seat_stopped", "anna: stopped on gpu1: exam")


@pytest.mark.parametrize(
    ("seat", "code", "told"),
    [
        (a_seat_status(person="bob"), "no_seat", "anna: no seat on the nodes that were read"),
        (SeatStatus(node="gpu2", seat=None), "no_seat", "nodes without a known seat: 1"),
        (a_seat_status(access=None), "seat_not_there", "planned"),
        (a_seat_status(image=None), "seat_not_there", "planned"),
    ],
)
def test_a_person_without_a_running_seat_gets_the_reason_instead(seat: SeatStatus, code: str, told: str) -> None:
    problem = build(seat)
    assert isinstance(problem, Problem)
    assert problem.code == code
    assert told in problem.what


@pytest.mark.parametrize(
    ("hidden", "jump", "expected"),
    [
        (True, None, ("http://127.0.0.1:8888/lab", True, "")),
        (False, None, ("http://198.18.0.11:22001/lab", False, "")),
        (False, "jump.lab", ("http://127.0.0.1:8888/lab", True, "jump.lab")),
        (True, "li@a:2222,root@[2001:db8::1]", ("http://127.0.0.1:8888/lab", True, "a:2222,[2001:db8::1]")),
    ],
)
def test_jupyter_is_reached_by_a_tunnel_where_its_port_is_hidden_or_behind_a_jump_host(
    hidden: bool, jump: str | None, expected: tuple[str, bool, str]
) -> None:
    letter = build(a_seat_status(access=an_access(hidden=hidden)), jump=jump)
    assert isinstance(letter, Letter)
    assert (letter.jupyter, letter.tunnel, letter.jump) == expected


HOSTILE: list[dict[str, Any]] = [
    {"host_key": f"{HOST_KEY}\nProxyCommand id"},
    {"host_key": f"{HOST_KEY}\n"},
    {"host_key": f"{HOST_KEY} comment"},
    {"host_key": f"* {HOST_KEY}"},
    {"host_key": f"@cert-authority {HOST_KEY}"},
    {"host_key": HOST_KEY.replace("ssh-ed25519", "ssh-rsa")},
    {"host_key": ""},
    {"host": "127.0.0.1"},
    {"host": "0.0.0.0"},
    {"host": "224.0.0.1"},
    {"host": "evil.example"},
    {"host": "198.18.0.11\nProxyCommand id"},
    {"host": ""},
    {"user": "anna\nProxyCommand id"},
    {"user": "anna bob"},
    {"user": "-oProxyCommand=id"},
    {"user": '"anna"'},
    {"user": "$(id)"},
    {"user": ""},
    {"port": 0},
    {"port": 65536},
    {"jupyter": "http://198.18.0.11:22001/lab?token=abc"},
    {"jupyter": "javascript:alert(1)"},
    {"jupyter": "http://198.18.0.11:22001/lab\n"},
]


@pytest.mark.parametrize("changes", HOSTILE, ids=str)
def test_an_access_that_is_not_what_it_is_said_to_be_gets_no_letter(changes: dict[str, Any]) -> None:
    problem = build(a_seat_status(access=an_access(hidden=False).model_copy(update=changes)))
    assert isinstance(problem, Problem)
    assert (problem.code, problem.node) == ("unsafe_letter", "gpu1")
    assert next(iter(changes)) in problem.what


@pytest.mark.parametrize(
    "changes",
    [
        {"seat": "ml_anna\nProxyCommand id"},
        {"seat": "*"},
        {"seat": "-F"},
        {"node": "gpu1\n# heading"},
        {"gpus": ("GPU-0\nx",)},
    ],
    ids=str,
)
def test_a_seat_with_a_hostile_name_gets_no_letter(changes: dict[str, Any]) -> None:
    problem = build(a_seat_status(**changes))
    assert isinstance(problem, Problem)
    assert problem.code == "unsafe_letter"


@pytest.mark.parametrize("jump", ["jump.lab -oProxyCommand=id", "a\nProxyCommand id", "$(id)", "a/b"])
def test_a_hostile_jump_gets_no_letter(jump: str) -> None:
    problem = build(a_seat_status(), jump=jump)
    assert isinstance(problem, Problem)
    assert (problem.code, "jump" in problem.what) == ("unsafe_letter", True)


@pytest.mark.parametrize("person", ["anna\x1b[2J", "anna\u202e", "a\n# b"])
def test_an_id_that_cannot_be_printed_gets_no_letter(person: str) -> None:
    problem = build(a_seat_status(person=person), person)
    assert isinstance(problem, Problem)
    assert problem.code == "unsafe_letter"


@given(st.sampled_from(("host_key", "host", "user")), st.integers(0, 90), st.text(min_size=1))
def test_nothing_in_a_value_for_ssh_ends_it_or_begins_another(field: str, at: int, text: str) -> None:
    """Whatever is put into a good value: there is no letter, or the value is one word, the key two."""
    good = getattr(an_access(), field)
    changed = an_access().model_copy(update={field: good[:at] + text + good[at:]})
    letter = build(a_seat_status(access=changed))
    if isinstance(letter, Letter):
        assert re.fullmatch(r"[\w.@-]+", letter.user, re.ASCII)
        assert re.fullmatch(r"[0-9.]+", letter.host, re.ASCII)
        assert letter.host_key == HOST_KEY


@pytest.mark.parametrize(
    ("person", "name"),
    [
        ("anna", "anna"),
        ("2024012345", "2024012345"),
        ("li.lei@example.edu", "li-lei-example-e.9cd1d3804e"),
        ("Anna", "anna.bf4fccd616"),
        ("../../etc/passwd", "etc-passwd.3754d6cb3a"),
        ("李雷", "id.3a47328a60"),
    ],
)
def test_file_name_of_a_letter_is_the_id_or_a_part_and_its_hash(person: str, name: str) -> None:
    assert letter_name(person) == name


@given(st.lists(st.text(), unique=True, max_size=5))
def test_file_names_of_letters_are_plain_and_differ(people: list[str]) -> None:
    ids = [person.encode("utf-8", "replace").decode() for person in people]
    names = {letter_name(person) for person in ids}
    assert len(names) == len(set(ids))
    assert all(name.isascii() and "/" not in name and name[0].isalnum() for name in names)


@pytest.mark.parametrize(("text", "shown"), [("", ""), ("  Li\n Lei ", "Li Lei"), ("李雷 <a@b>", "李雷 <a@b>")])
def test_contact_is_one_line_without_extra_spaces(text: str, shown: str) -> None:
    assert contact_text(text) == shown


@pytest.mark.parametrize("order", [1, -1])
def test_who_has_moved_gets_a_letter_about_the_seat_that_has_an_address(order: int) -> None:
    """The seat on the node of before is in use, and is not stopped yet."""
    seats = (a_seat_status(node="gpu1", access=None), a_seat_status(node="gpu2"))[::order]
    built = build_letters([Person(id="anna")], LabStatus(lab="ml", seats=seats), {})
    assert built.written == {"anna": a_letter(node="gpu2")}
