"""The list of seats: the state of each, its cards, and people without one."""

from datetime import UTC, date, datetime

import pytest

from provisioner.domain.lab.lock import Placement
from provisioner.domain.people.person import Person
from provisioner.domain.rollout.seat_list import Card, SeatState, build_seat_list, seat_state
from provisioner.domain.rollout.status import LabStatus, SeatStatus
from provisioner.domain.values.node import DiskUse, RunningSeat
from provisioner.domain.values.problem import Problem
from tests.builders import a_gpu, a_lease, a_node, a_uuid, self_service_facts
from tests.domain.letters import a_seat_status


@pytest.mark.parametrize(
    ("services", "state"),
    [
        (("healthy", "healthy"), "healthy"),
        (("healthy", "running"), "starting"),
        (("running", "running"), "starting"),
        (("healthy", "unhealthy"), "unhealthy"),
        (("healthy", "exited"), "unhealthy"),
        (("restarting", "healthy"), "unhealthy"),
        (("exited", "exited"), "stopped"),
        (("missing", "exited"), "stopped"),
        (("paused", "paused"), "unhealthy"),
        ((), "stopped"),
    ],
)
def test_state_of_a_seat_is_that_of_its_services(services: tuple[str, ...], state: SeatState) -> None:
    named = dict(zip(("jupyter", "ssh"), services, strict=False))
    assert seat_state(a_seat_status(services=named)) == state


def test_a_planned_seat_is_absent() -> None:
    assert seat_state(a_seat_status(image=None, services={})) == "absent"


def test_cards_have_the_index_of_their_node_and_a_lost_one_has_none() -> None:
    gpus = (a_gpu("gpu1", 1), a_gpu("gpu1", 2, instance=3, uuid=a_uuid("mig")))
    seat = a_seat_status(gpus=(a_uuid("gpu1/1"), a_uuid("mig"), a_uuid("lost")))
    listing = build_seat_list(LabStatus(lab="ml", seats=(seat,)), [], {"gpu1": a_node("gpu1", gpus=gpus)}, {})
    assert listing.seats[0].gpus == (
        Card(uuid=a_uuid("gpu1/1"), index="1"),
        Card(uuid=a_uuid("mig"), index="2.3"),
        Card(uuid=a_uuid("lost")),
    )


def test_an_entry_has_uid_and_disk_of_the_seat() -> None:
    use = DiskUse(measured_at=datetime(2026, 11, 30, tzinfo=UTC), home_bytes=1, layer_bytes=2, complete=True)
    seat = a_seat_status(uid=70001, disk=use, disk_limit=3)
    listing = build_seat_list(LabStatus(lab="ml", seats=(seat,)), [], {}, {})
    (entry,) = listing.model_dump(mode="json")["seats"]
    assert (entry["uid"], entry["disk_limit"]) == (70001, 3)
    assert entry["disk"] == {
        "measured_at": "2026-11-30T00:00:00Z",
        "home_bytes": 1,
        "layer_bytes": 2,
        "complete": True,
    }


DOWN = Problem("unreachable", "no answer", "why", "fix")


@pytest.mark.parametrize(
    ("others", "state", "unread"),
    [((), "absent", {}), ((SeatStatus(node="gpu2", seat=None, problems=(DOWN,)),), "unknown", {"gpu2": (DOWN,)})],
)
def test_a_person_without_a_seat_is_listed_last_and_is_unknown_while_a_node_is(
    others: tuple[SeatStatus, ...], state: SeatState, unread: dict[str, tuple[Problem, ...]]
) -> None:
    people = [Person(id="bob", group="staff", until=date(2027, 1, 31)), Person(id="anna")]
    listing = build_seat_list(LabStatus(lab="ml", seats=(a_seat_status(), *others)), people, {}, {})
    assert [(entry.person, entry.node, entry.state) for entry in listing.seats] == [
        ("anna", "gpu1", "healthy"),
        ("bob", "", state),
    ]
    assert (listing.seats[1].group, listing.seats[1].until) == ("staff", date(2027, 1, 31))
    assert listing.unread == unread


def test_the_seat_of_a_lab_without_a_roster_has_no_person() -> None:
    (entry,) = build_seat_list(LabStatus(lab="ml", seats=(a_seat_status(person=""),)), [], {}, {}).seats
    assert (entry.person, entry.seat, entry.group) == ("", "ml_anna", "")


ANNA_STOPPED = {"anna": Placement(node="gpu1", gpus=(a_uuid("gpu1/0"),), stopped="exam"), "bob": Placement(node="gpu1")}


@pytest.mark.parametrize(
    ("seats", "expected"),
    [
        ((), ("gpu1", None, "stopped", "exam")),
        ((SeatStatus(node="gpu2", seat=None, problems=(DOWN,)),), ("gpu1", None, "stopped", "exam")),
        ((SeatStatus(node="gpu1", seat=None, problems=(DOWN,)),), ("gpu1", None, "unknown", "exam")),
        # Busy when it was stopped: the next rollout stops it.
        ((a_seat_status(),), ("gpu1", "ml_anna", "healthy", "exam")),
    ],
)
def test_a_stopped_person_is_listed_on_the_node_of_their_place_with_the_reason(
    seats: tuple[SeatStatus, ...], expected: tuple[str, str | None, SeatState, str]
) -> None:
    probed = {"gpu1": a_node("gpu1")}
    listing = build_seat_list(LabStatus(lab="ml", seats=seats), [Person(id="anna")], probed, ANNA_STOPPED)
    (entry,) = listing.seats
    assert (entry.node, entry.seat, entry.state, entry.reason) == expected
    assert entry.gpus == (() if entry.seat else (Card(uuid=a_uuid("gpu1/0"), index="0"),))


def test_seats_that_people_have_started_follow_with_what_is_left_of_their_lease() -> None:
    up = {"jupyter": "healthy", "ssh": "healthy"}
    seat = RunningSeat(name="ml_anna", kind="self_service", lab="ml", generation=1, image="i", services=up, uid=5001)
    stopped = seat.model_copy(update={"name": "ml_bob", "person": "bob", "services": dict.fromkeys(up, "missing")})
    other = seat.model_copy(update={"name": "bio_eve", "lab": "bio"})
    leases = (a_lease(left_s=5400.4), a_lease("cem", gpus=(), state="pending"))
    facts = a_node("gpu1", seats=(stopped, seat, other), self_service=self_service_facts(leases=leases))
    listing = build_seat_list(LabStatus(lab="ml", seats=(a_seat_status(person=""),)), [], {"gpu1": facts}, {})
    assert [(one.person, one.seat, one.kind, one.state, one.left_s) for one in listing.seats] == [
        ("", "ml_anna", "", "healthy", None),
        ("anna", "ml_anna", "self_service", "healthy", 5400),
        ("bob", "ml_bob", "self_service", "stopped", None),
        ("cem", "ml_cem", "self_service", "absent", 5400),
    ]
    anna = listing.seats[1]
    assert (anna.node, anna.uid, anna.environment) == ("gpu1", 5001, "default")
    assert anna.gpus == (Card(uuid=a_uuid("gpu1/0"), index="0"),)


def test_leases_of_another_lab_are_not_listed() -> None:
    facts = a_node("gpu1", self_service=self_service_facts(lab="bio", leases=(a_lease(),)))
    assert build_seat_list(LabStatus(lab="ml"), [], {"gpu1": facts, "gpu2": DOWN}, {}).seats == ()
