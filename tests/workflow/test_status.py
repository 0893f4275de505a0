"""Drift is what a plan would change, and what the node itself finds where a plan sees nothing to do."""

import pytest

from provisioner.domain.rollout.plan import Action
from provisioner.domain.values.node import NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from provisioner.workflow.rollout.plan import PreparedPlan
from provisioner.workflow.status import status
from tests.workflow.fake_fleet import a_plan

LOST = Problem("gpu_lost_inside", "jupyter sees no GPU", "someone", "take it down")


@pytest.mark.parametrize(
    ("action", "found", "drift"),
    [("keep", (), ""), ("keep", (LOST,), "jupyter sees no GPU"), ("update", (LOST,), "the image changes")],
)
def test_what_the_node_finds_is_drift(action: Action, found: tuple[Problem, ...], drift: str) -> None:
    seat = RunningSeat(name="demo-student", generation=3, image="i", drift=found)
    plan = a_plan({"n1": action})
    steps = tuple(step.model_copy(update={"why": "the image changes"}) for step in plan.steps)
    made = PreparedPlan(plan.model_copy(update={"steps": steps}), {})
    (told,) = status(made, {"n1": NodeFacts(name="n1", seats=(seat,))}).seats
    assert (told.drift, told.problems) == (drift, found)
