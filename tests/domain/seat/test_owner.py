"""Who a person is on a node: their account, or the number of the roster; and what their group allows."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import Placement
from provisioner.domain.people.person import Person
from provisioner.domain.seat.owner import group_of, person_owner
from provisioner.domain.seat.render import render
from provisioner.domain.seat.seat import Seat, SeatOwner, person_seat_name_on, seat_of
from provisioner.domain.values.node import Account, RunningSeat
from provisioner.domain.values.problem import Problem
from tests.builders import a_lab, a_locked_image, a_node
from tests.domain.seats import TEMPLATES

GROUPS = {
    "student": {"gpus": 1, "memory": "1g", "cpus": 1, "pids": 512, "shm": "64m"},
    "guest": {"unix": "guests", "gpus": 0},
    "staff": {"unix": "lab-staff", "gpus": 4, "memory": "2g", "disk": "500g"},
}
LAB = a_lab(people={"roster": "roster.csv"}, groups=GROUPS, seat={"limits": {"memory": "4g", "shm": "1g"}})
ANN = Account(uid=5001, gid=5002, home="/home/ann")
NONE = Account()
MISSING = {"jupyter": "missing", "ssh": "missing"}


def owner(
    person: Person, account: Account | None, uid: int | None = None, lab: Lab = LAB, **node: Any
) -> SeatOwner | Problem:
    accounts = {} if account is None else {person.id: account}
    return person_owner(lab, a_node(accounts=accounts, **node), person, Placement(node="n1", uid=uid))


def ann(**over: Any) -> Person:
    return Person.model_validate({"id": "ann", "row": 7} | over)


def found(person: Person, account: Account | None, uid: int | None = None, **node: Any) -> SeatOwner:
    who = owner(person, account, uid, **node)
    assert isinstance(who, SeatOwner)
    return who


def refused(person: Person, account: Account | None, uid: int | None = None, **node: Any) -> Problem:
    problem = owner(person, account, uid, **node)
    assert isinstance(problem, Problem)
    assert problem.node == "n1"
    return problem


@pytest.mark.parametrize(
    ("person", "account", "uid", "ids"),
    [
        (ann(), ANN, None, (5001, 5002)),
        (ann(), ANN, 5001, (5001, 5002)),
        (ann(), Account(uid=1000, gid=1), None, (1000, 1)),
        (ann(), Account(uid=70001, gid=70001), None, (70001, 70001)),
        (ann(uid=70001), NONE, None, (70001, 70001)),
        (ann(uid=70001), NONE, 70001, (70001, 70001)),
    ],
)
def test_a_seat_has_the_ids_of_the_account_or_of_the_row(
    person: Person, account: Account, uid: int | None, ids: tuple[int, int]
) -> None:
    who = found(person, account, uid)
    assert (who.uid, who.gid) == ids
    assert (who.name, who.user, who.home, who.person) == ("demo_ann", "ann", "/srv/provisioner/homes/ann", "ann")


@pytest.mark.parametrize(
    ("person", "account", "code", "said"),
    [
        (ann(), None, "account_unknown", "could not look up the account ann: no answer within 5 s"),
        (ann(uid=70001), None, "account_unknown", "could not look up the account ann"),
        (ann(), NONE, "account_unknown", "n1 has no account ann (row 7 of the roster)"),
        (ann(), Account(uid=5001), "account_unknown", "n1 has no account ann"),
        (ann(uid=70001), ANN, "uid_of_account", "row 7 of the roster gives ann the uid 70001, but n1 has an account"),
        (ann(uid=70001), Account(uid=70001, gid=70001), "uid_of_account", "with uid 70001"),
        (ann(), Account(uid=0, gid=0), "system_account", "uid 0, gid 0"),
        (ann(), Account(uid=999, gid=999), "system_account", "uid 999, gid 999"),
        (ann(), Account(uid=5001, gid=0), "system_account", "uid 5001, gid 0"),
    ],
)
def test_a_person_who_is_not_known_or_not_allowed_has_a_problem(
    person: Person, account: Account | None, code: str, said: str
) -> None:
    problem = refused(person, account, absent_because={"accounts": "no answer within 5 s"})
    assert problem.code == code
    assert said in problem.what


def test_an_account_that_was_not_asked_for_is_not_known() -> None:
    assert "the node did not say" in refused(ann(), None).what


def a_running_seat(**over: Any) -> RunningSeat:
    fields = {"name": "demo_ann", "lab": "demo", "person": "ann", "generation": 3, "image": "x", "uid": 5001}
    return RunningSeat.model_validate(fields | {"services": {"jupyter": "healthy", "ssh": "healthy"}} | over)


@pytest.mark.parametrize(
    ("uid", "seat"),
    [
        (5009, None),
        (5009, a_running_seat()),
        (None, a_running_seat(uid=5009)),
        (5001, a_running_seat(uid=5009)),
        (None, a_running_seat(uid=5009, services={"jupyter": "missing", "ssh": "exited"})),
    ],
)
def test_another_uid_than_that_of_the_lock_or_of_the_seat_is_refused(uid: int | None, seat: RunningSeat | None) -> None:
    problem = refused(ann(), ANN, uid, seats=(seat,) if seat else ())
    assert (problem.code, "had uid 5009 and has 5001" in problem.what) == ("identity_changed", True)


@pytest.mark.parametrize(
    "seat", [a_running_seat(), a_running_seat(uid=None), a_running_seat(uid=5009, services=MISSING)]
)
def test_a_seat_that_was_stopped_keeps_nobody_from_a_new_account(seat: RunningSeat) -> None:
    """As the problem says: remove the row, roll out, add it again. The node checks whose the home is."""
    assert found(ann(), ANN, None, seats=(seat,)).uid == 5001


@pytest.mark.parametrize(
    ("group", "unix", "expected"),
    [
        ("", (), "student"),
        ("", ("users",), "student"),
        ("", ("users", "lab-staff"), "staff"),
        ("", ("lab-staff", "guests"), "guest"),
        ("staff", ("guests",), "staff"),
        ("student", ("lab-staff",), "student"),
    ],
)
def test_the_group_is_that_of_the_row_else_the_first_of_lab_yml_that_the_account_is_in(
    group: str, unix: tuple[str, ...], expected: str
) -> None:
    account = ANN.model_copy(update={"groups": unix})
    assert group_of(LAB, ann(group=group), account) == expected


@pytest.mark.parametrize(
    ("group", "gpus", "is_refused"),
    [
        ("", 1, False),
        ("", 2, True),
        ("student", 2, True),
        ("guest", 0, False),
        ("guest", 1, True),
        ("guest", "shared", False),
        ("staff", 4, False),
        ("staff", 5, True),
    ],
)
def test_a_group_has_a_ceiling_of_own_cards(group: str, gpus: Any, is_refused: bool) -> None:
    who = owner(ann(group=group, gpus=gpus), ANN)
    assert (isinstance(who, Problem) and who.code == "too_many_gpus") is is_refused


def test_the_ceiling_of_a_unix_group_counts_and_a_lab_without_groups_has_none() -> None:
    guest = ANN.model_copy(update={"groups": ("guests",)})
    assert "the group guest may have 0" in refused(ann(gpus=1), guest).what
    assert isinstance(owner(ann(gpus=64), ANN, lab=a_lab(people={"roster": "roster.csv"})), SeatOwner)


def seat_for(person: Person, account: Account = ANN, **node: Any) -> Seat:
    who = found(person, account)
    seat = seat_of(LAB, a_node(**node), who, (), host=None)
    assert isinstance(seat, Seat)
    return seat


@pytest.mark.parametrize(
    ("group", "limits"),
    [
        ("student", {"mem_limit": "1g", "cpus": 1.0, "pids_limit": 512, "shm_size": "64m"}),
        ("staff", {"mem_limit": "2g", "cpus": 15.0, "pids_limit": 4096, "shm_size": "1g"}),
        ("guest", {"mem_limit": "4g", "cpus": 15.0, "pids_limit": 4096, "shm_size": "1g"}),
    ],
)
def test_the_limits_of_the_group_are_in_the_compose_file_of_each_service(group: str, limits: dict[str, Any]) -> None:
    files = render(seat_for(ann(group=group)), a_locked_image(), TEMPLATES).files
    services = yaml.safe_load(files["compose.yaml"])["services"]
    for service in services.values():
        assert {name: service[name] for name in limits} == limits
        assert service["user"] == "5001:5002"


ODD = ["Ann", "ann.", "ann@a", "ann.a", "ann-a", "Ann-A", "ann_a", "_ann", "a" * 31, "a" * 32, "a" * 64]


@pytest.mark.parametrize("person", ODD)
def test_the_seat_of_an_odd_id_can_be_rendered(person: str) -> None:
    seat = seat_for(Person(id=person))
    compose = yaml.safe_load(render(seat, a_locked_image(), TEMPLATES).files["compose.yaml"])
    assert (compose["name"], seat.home.startswith("/srv/provisioner/homes/")) == (seat.name, True)


IDS = st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}\Z")


@given(st.lists(st.one_of(st.sampled_from(ODD), IDS), unique_by=str.lower, min_size=2, max_size=6))
def test_people_share_neither_seat_nor_home_although_their_ids_fold_alike(ids: list[str]) -> None:
    """The roster refuses ids that differ in upper and lower case only."""
    owners = [found(Person(id=one, uid=70001), NONE) for one in ids]
    assert len({who.name for who in owners}) == len({who.home for who in owners}) == len(ids)
    assert [who.name for who in owners] == [person_seat_name_on(a_node(), "demo", one) for one in ids]


@pytest.mark.parametrize(("group", "limit"), [("staff", 500 << 30), ("", None)])
def test_the_limit_of_the_disk_is_that_of_the_group(group: str, limit: int | None) -> None:
    assert found(ann(group=group), ANN).disk_limit == limit
