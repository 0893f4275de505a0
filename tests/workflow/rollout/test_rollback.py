"""What rollback and removal change on each node."""

from pathlib import Path

import pytest

from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.rollout.run_spec import Rules, build_run_spec
from provisioner.domain.values.node import NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from provisioner.workflow.rollout.removal import plan_removal, removal_orders
from provisioner.workflow.rollout.rollback import plan_rollback, rollback_orders
from provisioner.workflow.rollout.run import run_waves
from provisioner.workflow.status import build_status
from tests.builders import a_node
from tests.workflow.fake_fleet import SEAT, UNREACHABLE, FakeFleet, FakeHost, a_claim, a_context
from tests.workflow.rollout.test_run import BEGAN, prepared, states


def node_with_seat(generation: int, previous: int) -> NodeFacts:
    return a_node("n1", seats=(RunningSeat(name=SEAT, generation=generation, image="i", previous=previous),))


UNREADABLE = Problem("journal_damaged", "the journal cannot be read", "why", "check the node's disk")
DAMAGED = a_node("n1", seats=(RunningSeat(name=SEAT, generation=0, image="", state="damaged", drift=(UNREADABLE,)),))


@pytest.mark.parametrize(
    ("facts", "to", "action", "why"),
    [
        (node_with_seat(3, 2), None, "update", "from generation 3 back to 2"),
        (node_with_seat(3, 2), 1, "update", "from generation 3 back to 1"),
        (node_with_seat(3, 2), 3, "keep", "runs generation 3"),
        (node_with_seat(1, 0), None, "skip", "n1 keeps no generation before 1"),
        (a_node("n1"), None, "skip", f"n1 has no seat {SEAT}"),
        (node_with_seat(0, 0), None, "skip", f"n1 has no seat {SEAT}"),
        (DAMAGED, None, "skip", "the journal cannot be read"),
        (UNREACHABLE, None, "skip", "no answer"),
    ],
)
def test_the_generation_that_a_rollback_returns_to(
    facts: NodeFacts | Problem, to: int | None, action: str, why: str
) -> None:
    plan = plan_rollback("demo", "student", [FakeHost("n1")], {"n1": facts}, to)
    assert [(step.action, step.why) for step in plan.steps] == [(action, why)]
    orders = rollback_orders(plan, "r1", to)
    assert [(order.to, order.expects) for seats in orders.values() for order in seats.values()] == (
        [(to or 0, 3)] if action == "update" else []
    )


@pytest.mark.parametrize(
    ("when_busy", "action", "codes"),
    [
        (DEFER, "defer", ["busy"]),
        (WhenBusy(policy="wait", seconds=60), "update", ["waits_for_work"]),
        (WhenBusy(policy="force", reason="exam"), "update", ["stops_work"]),
    ],
)
def test_rollback_stops_work_only_with_force(when_busy: WhenBusy, action: str, codes: list[str]) -> None:
    seat = RunningSeat(name=SEAT, generation=3, image="i", previous=2, at_work=("GPU 0: pid 4242 python of li",))
    facts = a_node("n1", seats=(seat,))
    plan = plan_rollback("demo", "student", [FakeHost("n1")], {"n1": facts}, None, when_busy=when_busy)
    assert [(step.action, step.busy) for step in plan.steps] == [(action, ("GPU 0: pid 4242 python of li",))]
    assert [problem.code for problem in plan.steps[0].problems] == codes
    assert {seats[SEAT].when_busy for seats in rollback_orders(plan, "r1", None).values()} <= {when_busy}


def test_rollback_runs_in_waves_and_stops_beyond_the_budget(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path, {"roll_back": {"n2": "rolled_back"}}).add("n1", "n2", "n3", generation=2)
    plan = plan_rollback("demo", "student", fleet.hosts(), fleet.probe(["n1", "n2", "n3"]), None)
    back = rollback_orders(plan, "r1", None)
    run_spec = build_run_spec("r1", plan, {}, Rules(("1", "2", "3")), BEGAN, verb="rollback", back=back).with_claim(
        a_claim()
    )
    outcome = run_waves(run_spec, fleet, a_context())
    assert states(outcome) == {"n1": "committed", "n2": "rolled_back", "n3": "not_started"}
    assert [fleet.read(node)["generation"] for node in ("n1", "n2", "n3")] == [1, 2, 2]
    assert fleet.claims_by_node() == dict.fromkeys(("n1", "n2", "n3"))


@pytest.mark.parametrize(
    ("when_busy", "action", "codes"),
    [
        (DEFER, "defer", ["busy"]),
        (WhenBusy(policy="force", reason="the term is over"), "remove", ["stops_work"]),
    ],
)
def test_removal_stops_work_only_with_force(when_busy: WhenBusy, action: str, codes: list[str]) -> None:
    seat = RunningSeat(name=SEAT, generation=3, image="i", layer_bytes=9 << 30, at_work=("GPU 0: pid 4242 python",))
    plan = plan_removal("demo", "student", {"n1": a_node("n1", seats=(seat,)), "n2": a_node("n2")}, when_busy=when_busy)
    assert [step.action for step in plan.steps] == [action, "remove"]
    assert [problem.code for problem in plan.steps[0].problems] == codes
    orders = removal_orders(build_run_spec("r1", plan, {}, Rules(), BEGAN, verb="remove").with_claim(a_claim()))
    assert {seats[SEAT].when_busy for seats in orders.values()} == {when_busy}
    assert ("n1" in orders) == (action == "remove")


def test_removal_has_a_step_for_every_reachable_node(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path).add("n1", generation=2).add("n2")
    plan = plan_removal("demo", "student", {**fleet.probe(["n1", "n2"]), "n3": UNREACHABLE})
    run_spec = build_run_spec("r1", plan, {}, Rules(max_failures="100%"), BEGAN, verb="remove").with_claim(a_claim())
    assert states(run_waves(run_spec, fleet, a_context())) == {
        "n1": "committed",
        "n2": "unchanged",
        "n3": "unreachable",
    }
    assert fleet.claims_by_node() == dict.fromkeys(("n1", "n2"))


@pytest.mark.parametrize(
    ("verb", "run", "expected"),
    [
        ("rollback", "r1", ("rolled back on purpose by ann@control1, run r1",)),
        ("rollback", "r0", ()),
        ("rollout", "r1", ()),
    ],
)
def test_status_names_the_run_that_rolled_a_seat_back(verb: str, run: str, expected: tuple[str, ...]) -> None:
    last = a_claim().model_copy(update={"verb": verb})
    facts = a_node("n1", last=last, seats=(RunningSeat(name=SEAT, generation=1, image="i", run=run),))
    assert remarks(facts) == expected


def test_status_names_the_run_that_has_claimed_a_node() -> None:
    assert remarks(a_node("n1", claims=(a_claim(),))) == (
        "held by a run r1 of ann@control1 since 2026-11-26T21:00:00+00:00",
    )


def test_a_lab_with_a_roster_removes_the_seats_that_are_there_and_no_other() -> None:
    seats = (
        RunningSeat(name="demo_ann", lab="demo", person="ann", generation=1, image="i"),
        RunningSeat(name="demo-student", generation=0, image=""),  # its record is damaged
    )
    probed: dict[str, NodeFacts | Problem] = {
        "n1": a_node("n1", seats=seats[:1]),
        "n2": a_node("n2"),
        "n3": a_node("n3", seats=seats),
        "n4": UNREACHABLE,
    }
    plan = plan_removal("demo", "student", probed, has_roster=True)
    assert [(step.node, step.seat, step.action) for step in plan.steps] == [
        ("n1", "demo_ann", "remove"),
        ("n2", None, "keep"),
        ("n3", "demo-student", "remove"),
        ("n3", "demo_ann", "remove"),
        ("n4", None, "skip"),
    ]
    settled = build_run_spec("r1", plan, {}, Rules(), BEGAN, verb="remove").settled
    assert {record.node: record.state for record in settled} == {"n2": "unchanged", "n4": "unreachable"}


@pytest.mark.parametrize(("number", "named"), [(2, "other-0, other-1"), (30, "30 seats")])
def test_status_names_all_runs_that_have_claimed_seats_of_a_node(number: int, named: str) -> None:
    names = tuple(f"other-{seat}" for seat in range(number))
    seats = a_claim("r2").model_copy(update={"scope": "seats", "seats": names, "verb": "rollout"})
    assert remarks(a_node("n1", claims=(a_claim(), seats)))[1:] == (
        f"held by rollout r2 of ann@control1 since 2026-11-26T21:00:00+00:00: {named}",
    )


def test_of_the_seats_of_people_status_names_the_runs_that_hold_them() -> None:
    claims = tuple(
        a_claim(run).model_copy(update={"scope": "seats", "seats": (seat,)})
        for run, seat in (("r1", SEAT), ("r2", "demo_ben"))
    )
    made = prepared({"n1": "update"})
    steps = tuple(step.model_copy(update={"person": "ann"}) for step in made.plan.steps)
    whose = made._replace(plan=made.plan.model_copy(update={"steps": steps}))
    (seat,) = build_status(whose, {"n1": a_node("n1", claims=claims)}).seats
    assert [remark.split()[4] for remark in seat.remarks] == ["r1"]


def remarks(facts: NodeFacts) -> tuple[str, ...]:
    (seat,) = build_status(prepared({"n1": "update"}), {"n1": facts}).seats
    assert facts.last or facts.claims
    return seat.remarks
