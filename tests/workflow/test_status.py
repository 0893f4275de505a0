"""Drift: what a plan would change, and what the node reports where the plan changes nothing."""

from datetime import UTC, datetime

import pytest

from provisioner.domain.rollout.plan import Action
from provisioner.domain.values.node import DiskUse, NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from provisioner.workflow.rollout.plan import PreparedPlan
from provisioner.workflow.status import build_status
from tests.builders import a_lease, a_node, a_uuid, self_service_facts
from tests.workflow.fake_fleet import a_plan

LOST = Problem("gpu_lost_inside", "jupyter sees no GPU", "someone", "take it down")


@pytest.mark.parametrize(
    ("action", "found", "drift"),
    [("keep", (), ""), ("keep", (LOST,), "jupyter sees no GPU"), ("update", (LOST,), "the image changes")],
)
def test_drift_is_what_the_plan_changes_else_what_the_node_reports(
    action: Action, found: tuple[Problem, ...], drift: str
) -> None:
    seat = RunningSeat(name="demo-student", generation=3, image="i", drift=found)
    plan = a_plan({"n1": action})
    steps = tuple(step.model_copy(update={"why": "the image changes"}) for step in plan.steps)
    made = PreparedPlan(plan.model_copy(update={"steps": steps}), {})
    (found_seat,) = build_status(made, {"n1": NodeFacts(name="n1", seats=(seat,))}).seats
    assert (found_seat.drift, found_seat.problems) == (drift, found)


@pytest.mark.parametrize(
    ("wanted", "limit", "is_above"),
    [
        ({"n1": {"demo-student": 5}}, 5, True),  # lab.yml counts, also before the next rollout
        ({"n1": {"demo-student": None}}, None, False),
        ({}, 4, True),  # not planned for: what the node has
    ],
)
def test_the_use_of_the_disk_is_compared_with_the_limit_of_lab_yml(
    wanted: dict[str, dict[str, int | None]], limit: int | None, is_above: bool
) -> None:
    use = DiskUse(measured_at=datetime(2026, 11, 30, tzinfo=UTC), home_bytes=5, layer_bytes=1, complete=True)
    seat = RunningSeat(name="demo-student", generation=3, image="i", uid=70001, disk=use, disk_limit=4)
    made = PreparedPlan(a_plan({"n1": "keep"}), {}, wanted)
    status = build_status(made, {"n1": NodeFacts(name="n1", seats=(seat,))})
    (found,) = status.seats
    assert (found.uid, found.disk, found.disk_limit) == (70001, use, limit)
    assert [problem.code for problem in found.problems] == ["disk_limit_reached"] * is_above
    assert not status.drifted


def test_self_service_is_shown_by_node_with_the_gpus_that_have_no_lease() -> None:
    made = PreparedPlan(a_plan({"n1": "keep", "n2": "keep", "n3": "keep"}), {})
    lab = made.plan.lab
    down = Problem("unreachable", "no answer", "why", "fix")
    runs = self_service_facts(lab=lab, leases=(a_lease(),), waiting=2)
    probed: dict[str, NodeFacts | Problem] = {
        "n1": a_node("n1", self_service=runs),
        "n2": a_node("n2", self_service=runs.model_copy(update={"runs": False, "leases": ()})),
        "n3": down,
        "n4": a_node("n4", self_service=runs.model_copy(update={"lab": "other"})),
        "n5": a_node("n5"),
    }
    one, two = build_status(made, probed).self_service
    assert (one.node, one.free, one.waiting, one.problems) == ("n1", (a_uuid("gpu1/1"),), 2, ())
    assert (two.node, two.free) == ("n2", two.pool)
    assert [problem.code for problem in two.problems] == ["broker_down"]
