"""Seats with a lease, when there is a new version of their environment: left alone, waited for, or upgraded."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from provisioner.cli.execute import exit_code
from provisioner.cli.exit_codes import DEFERRED, DONE
from provisioner.domain.rollout.busy import WhenBusy, when_busy
from provisioner.domain.rollout.leases import BrokerRequest, EndedJob, GpuUse, LeasedSeat
from provisioner.domain.rollout.report import NodeRecord, RolloutReport
from provisioner.domain.values.problem import Problem
from provisioner.workflow.rollout.leases import (
    Pause,
    change_leases,
    read_gpu_usage,
    read_leases,
    settle_leases,
    with_leases,
)
from tests.builders import a_uuid
from tests.workflow.broker_fleet import BROKER_DOWN, OLD, UNREACHABLE, WITHOUT, BrokerFleet, a_leased_seat

DEFER, WAIT, FORCE = when_busy("defer"), when_busy("wait:2h"), when_busy("force", "driver update")
OLD_ANNA, OLD_BOB = a_leased_seat("anna", version=OLD), a_leased_seat("bob", version=OLD)
BUSY = Problem("node_occupied", "4 other seats", "why", "try again")
NO_IMAGE = Problem("image_gone", "no image", "why", "fix")


class Clock:
    """Time goes by only while somebody waits. `at`: what happens at a second."""

    def __init__(self, stop: bool = False) -> None:
        self.now, self.at, self.stop = 0.0, dict[float, Callable[[], Any]](), stop
        self.notes: list[str] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for second in sorted(second for second in self.at if second <= self.now):
            self.at.pop(second)()

    @property
    def pause(self) -> Pause:
        return Pause(lambda: self.now, self.sleep, lambda: self.stop, self.notes.append)


def settle(fleet: BrokerFleet, policy: WhenBusy, clock: Clock | None = None) -> dict[str, NodeRecord]:
    return settle_leases(fleet, "ml", [host.name for host in fleet.hosts()], policy, (clock or Clock()).pause)


def states(records: dict[str, NodeRecord]) -> dict[str, str]:
    return {seat.seat: seat.state for record in records.values() for seat in record.seats}


def codes(records: dict[str, NodeRecord]) -> list[str]:
    return [problem.code for record in records.values() for problem in record.problems]


def verbs(fleet: BrokerFleet) -> list[str]:
    return [request.verb for _, request in fleet.asked]


@pytest.mark.parametrize("policy", [DEFER, WAIT, FORCE])
@pytest.mark.parametrize(
    "seat",
    [
        a_leased_seat(),
        a_leased_seat(version=OLD, state="stopped"),
        a_leased_seat(version=OLD, newest=""),
        a_leased_seat(version=OLD, lab="other"),
    ],
    ids=["newest", "no lease", "not published", "another lab"],
)
def test_a_seat_that_needs_nothing_is_left_alone(policy: WhenBusy, seat: LeasedSeat) -> None:
    fleet, clock = BrokerFleet(gpu1=[seat]), Clock()
    assert settle(fleet, policy, clock) == {}
    assert (verbs(fleet), clock.now) == (["seats"], 0)


def test_defer_leaves_a_lease_and_says_so() -> None:
    fleet = BrokerFleet(gpu1=[OLD_ANNA, a_leased_seat("bob")], gpu2=[])
    records = settle(fleet, DEFER)
    assert (list(records), records["gpu1"].state) == (["gpu1"], "deferred")
    assert (states(records), codes(records)) == ({"ml_anna": "deferred"}, ["leased"])
    assert verbs(fleet) == ["seats", "seats"]


def test_wait_ends_when_people_have_upgraded_or_their_leases_are_over() -> None:
    fleet, clock = BrokerFleet(gpu1=[OLD_ANNA, OLD_BOB]), Clock()
    clock.at[600] = lambda: fleet.seats["gpu1"].update(ml_anna=a_leased_seat("anna"))
    clock.at[1200] = lambda: fleet.seats["gpu1"].update(ml_bob=a_leased_seat("bob", version=OLD, state="stopped"))
    assert states(settle(fleet, WAIT, clock)) == {"ml_anna": "committed", "ml_bob": "unchanged"}
    assert clock.now == 1200
    assert clock.notes == ["waiting for seats with a lease: ml_anna, ml_bob"]
    assert set(verbs(fleet)) == {"seats"}


def test_wait_ends_at_its_deadline() -> None:
    fleet, clock = BrokerFleet(gpu1=[OLD_ANNA]), Clock()
    records = settle(fleet, WAIT, clock)
    assert (states(records), codes(records), clock.now) == ({"ml_anna": "deferred"}, ["leased"], 7200)


def test_wait_ends_where_the_run_is_to_stop() -> None:
    clock = Clock(stop=True)
    assert states(settle(BrokerFleet(gpu1=[OLD_ANNA]), WAIT, clock)) == {"ml_anna": "deferred"}
    assert clock.now == 0


def test_a_node_that_is_away_for_a_moment_is_waited_for() -> None:
    fleet, clock = BrokerFleet(gpu1=[OLD_ANNA]), Clock()
    clock.at[60] = lambda: fleet.fails.update(gpu1=UNREACHABLE)
    clock.at[300] = fleet.fails.clear
    clock.at[600] = lambda: fleet.seats["gpu1"].update(ml_anna=a_leased_seat("anna"))
    assert states(settle(fleet, WAIT, clock)) == {"ml_anna": "committed"}


def test_force_upgrades_with_the_reason() -> None:
    fleet, clock = BrokerFleet(gpu1=[OLD_ANNA], gpu2=[OLD_BOB, a_leased_seat("cem")]), Clock()
    records = settle(fleet, FORCE, clock)
    assert states(records) == {"ml_anna": "committed", "ml_bob": "committed"}
    asked = [(node, request.seat, request.reason) for node, request in fleet.asked if request.verb == "upgrade_seat"]
    assert asked == [("gpu1", "ml_anna", "driver update"), ("gpu2", "ml_bob", "driver update")]


def test_force_tries_again_where_a_node_is_occupied() -> None:
    fleet, clock = BrokerFleet(gpu1=[OLD_ANNA]), Clock()
    fleet.refuses["upgrade_seat"] = [BUSY, BUSY]
    assert states(settle(fleet, FORCE, clock)) == {"ml_anna": "committed"}
    assert verbs(fleet).count("upgrade_seat") == 3


def test_force_tries_no_refused_seat_again() -> None:
    fleet = BrokerFleet(gpu1=[OLD_ANNA, OLD_BOB])
    fleet.refuses["upgrade_seat"] = [NO_IMAGE]
    records = settle(fleet, FORCE)
    assert states(records) == {"ml_anna": "failed", "ml_bob": "committed"}
    assert codes(records) == ["image_gone"]


@pytest.mark.parametrize(
    ("ended", "code"),
    [(EndedJob(kind="upgrade", state="rolled_back", problems=(NO_IMAGE,)), "image_gone"), (None, "not_upgraded")],
)
def test_an_upgrade_that_fails_is_not_repeated(ended: EndedJob | None, code: str) -> None:
    fleet = BrokerFleet(gpu1=[OLD_ANNA])
    fleet.upgrades = lambda seat: seat.model_copy(update={"job": "", "ended": ended})
    records = settle(fleet, FORCE)
    assert (states(records), codes(records)) == ({"ml_anna": "failed"}, [code])
    assert verbs(fleet).count("upgrade_seat") == 1


def test_an_upgrade_that_does_not_end_is_followed_for_a_limited_time() -> None:
    fleet, clock = BrokerFleet(gpu1=[OLD_ANNA]), Clock()
    fleet.upgrades = lambda seat: seat
    assert states(settle(fleet, FORCE, clock)) == {"ml_anna": "deferred"}
    assert clock.now == 7200


@pytest.mark.parametrize("policy", [DEFER, WAIT, FORCE])
@pytest.mark.parametrize(("problem", "state"), [(UNREACHABLE, "unreachable"), (BROKER_DOWN, "failed")])
def test_a_node_that_does_not_answer_is_in_the_outcome(policy: WhenBusy, problem: Problem, state: str) -> None:
    fleet = BrokerFleet(gpu1=[], gpu2=[])
    fleet.fails = {"gpu1": problem, "gpu2": WITHOUT}
    records = settle(fleet, policy)
    assert {node: record.state for node, record in records.items()} == {"gpu1": state}


@pytest.mark.parametrize(
    ("policy", "state", "code"),
    [(DEFER, "deferred", DEFERRED), (FORCE, "committed", DONE), (WAIT, "deferred", DEFERRED)],
)
def test_the_report_of_a_run_counts_leases_with_the_seats(policy: WhenBusy, state: str, code: int) -> None:
    before = (
        NodeRecord(node="gpu1", state="committed", counts={"committed": 2, "unchanged": 1}),
        NodeRecord(node="gpu2", state="unchanged", counts={"unchanged": 1}),
    )
    leases = settle(BrokerFleet(gpu1=[OLD_ANNA, OLD_BOB], gpu2=[]), policy)
    gpu1, gpu2 = with_leases(before, leases)
    assert gpu2 == before[1]
    assert (gpu1.state, [seat.seat for seat in gpu1.seats]) == (state, ["ml_anna", "ml_bob"])
    assert sum(gpu1.counts.values()) == 5
    assert [problem.code for problem in gpu1.problems] == ["leased", "leased"] * (state == "deferred")
    moment = datetime(2027, 1, 31, tzinfo=UTC)
    report = RolloutReport(lab="ml", run="r", started_at=moment, ended_at=moment, nodes=(gpu1, gpu2))
    assert exit_code(report) == code


def test_a_node_whose_leases_are_not_known_is_not_done() -> None:
    fleet = BrokerFleet(gpu1=[])
    fleet.fails["gpu1"] = BROKER_DOWN
    before = (NodeRecord(node="gpu1", state="committed", counts={"committed": 2}),)
    (record,) = with_leases(before, settle(fleet, DEFER))
    assert (record.state, record.counts, record.problems[0].code) == ("failed", {"committed": 2}, "broker_down")


# --- reading and changing


def test_only_seats_of_the_lab_are_read() -> None:
    leases = read_leases(BrokerFleet(gpu1=[OLD_ANNA, a_leased_seat("bob", lab="other")]), "ml", ["gpu1"])
    assert [seat.person for seat in leases.seats["gpu1"]] == ["anna"]


def test_each_seat_gets_its_own_answer_in_the_order_of_the_seats() -> None:
    fleet = BrokerFleet(gpu1=[OLD_ANNA, OLD_BOB], gpu2=[a_leased_seat("cem")])
    fleet.refuses["stop"] = [NO_IMAGE]
    wanted = [("gpu1", OLD_ANNA), ("gpu2", a_leased_seat("cem")), ("gpu1", OLD_BOB)]
    changed = change_leases(fleet, wanted, lambda seat: BrokerRequest(verb="stop", seat=seat.seat, reason="x"))
    found = [(one.node, one.seat.seat, one.seat.state, one.problem and one.problem.code) for one in changed]
    assert found == [
        ("gpu1", "ml_anna", "active", "image_gone"),
        ("gpu2", "ml_cem", "stopping", None),
        ("gpu1", "ml_bob", "stopping", None),
    ]


def test_usage_is_sorted_and_names_nodes_without_an_answer() -> None:
    fleet = BrokerFleet(gpu1=[], gpu2=[], gpu3=[], gpu4=[])
    fleet.fails = {"gpu3": UNREACHABLE, "gpu4": WITHOUT}
    fleet.rows = {
        "gpu1": (GpuUse(uid=5002, person="bob", gpu=a_uuid("1"), held_s=7200, used_s=60),),
        "gpu2": (GpuUse(uid=5001, person="anna", gpu=a_uuid("2"), held_s=3600, used_s=3600),),
    }
    usage = read_gpu_usage(fleet, "ml", None)
    assert [(row.person, row.node) for row in usage.rows] == [("anna", "gpu2"), ("bob", "gpu1")]
    assert usage.by_person == {"anna": (3600, 3600), "bob": (7200, 60)}
    assert list(usage.unread) == ["gpu3"]
    fleet.lab = "other"
    assert read_gpu_usage(fleet, "ml", None).rows == ()
