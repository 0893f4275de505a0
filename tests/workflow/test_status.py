"""Drift: what a plan would change, and what the node reports where the plan changes nothing."""

from datetime import UTC, datetime

import pytest

from provisioner.console.status import status_view
from provisioner.domain.rollout.plan import Action
from provisioner.domain.values.node import DiskUse, NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.size import human_size
from provisioner.workflow.rollout.plan import PreparedPlan
from provisioner.workflow.status import build_status
from tests.builders import a_lease, a_locked_image, a_node, a_uuid, self_service_facts
from tests.console.screen import render_text
from tests.workflow.fake_fleet import a_plan
from tests.workflow.rollout.test_preflight import prepared

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


def test_the_images_of_the_lock_that_nodes_lack_are_counted_by_node() -> None:
    image = a_locked_image("mirror.lab:5200/pytorch/pytorch:2.10.0-cuda12.8-cudnn9-runtime")
    made = prepared(("update", image, 5), ("defer", image, 5), ("keep", image, 0), ("skip", image, 5))
    *steps, lost = made.plan.steps
    lost = lost.model_copy(update={"seat": None})
    made = made._replace(plan=made.plan.model_copy(update={"steps": (*steps, lost)}))
    probed: dict[str, NodeFacts | Problem] = {
        "n0": a_node("n0"),
        "n1": a_node("n1"),
        "n2": a_node("n2", images=(image.lab.rpartition("@")[2],)),
        "n3": LOST,
    }
    status = build_status(made, probed)
    assert status.to_fetch == {"n0": image.bytes, "n1": image.bytes}
    size = human_size(2 * image.bytes)
    line = f"Images of the lock are on 1 of 3 nodes; n[0-1] lack {size}. Before a rollout: provision fetch"
    assert line in render_text(status_view(status), width=200)
