import pytest

from provisioner.domain.rollout.busy import WhenBusy
from provisioner.domain.rollout.plan import Plan, Step
from provisioner.domain.rollout.stale import find_stale_nodes
from provisioner.domain.values.problem import Problem

UPDATE = Step(node="n1", seat="demo-li", action="update", why="the image changes", generation=3, diff="-a\n+b\n")
KEEP = Step(node="n2", seat="demo-li", action="keep", why="as locked", generation=1)
DOWN = Problem("unreachable", "no route", "w", "f")


def a_plan(*steps: Step, lab: str = "demo") -> Plan:
    return Plan(lab=lab, image=None, steps=steps)


@pytest.mark.parametrize(
    ("now", "stale"),
    [
        ([UPDATE, KEEP], []),
        ([UPDATE], []),
        ([KEEP, UPDATE.model_copy(update={"bytes_to_pull": 7, "problems": (DOWN,)})], []),
        ([UPDATE.model_copy(update={"generation": 4}), KEEP], ["n1"]),
        ([UPDATE.model_copy(update={"diff": "-a\n+c\n"}), KEEP], ["n1"]),
        ([UPDATE, KEEP.model_copy(update={"action": "restart"})], ["n2"]),
        ([UPDATE, KEEP, UPDATE.model_copy(update={"node": "n3"})], ["n3"]),
    ],
)
def test_node_is_stale_if_its_step_changed(now: list[Step], stale: list[str]) -> None:
    found = find_stale_nodes(a_plan(UPDATE, KEEP), a_plan(*now))
    assert [problem.node for problem in found] == stale


def test_reason_of_a_skipped_node_does_not_make_it_stale() -> None:
    saved = Step(node="n1", seat=None, action="skip", why="no route", problems=(DOWN,))
    assert find_stale_nodes(a_plan(saved), a_plan(saved.model_copy(update={"why": "timed out", "problems": ()}))) == []


def test_plan_of_another_lab_is_refused() -> None:
    (problem,) = find_stale_nodes(a_plan(UPDATE), a_plan(UPDATE, lab="other"))
    assert (problem.what, problem.node) == ("the saved plan is of the lab demo, not of other", None)


BUSY = UPDATE.model_copy(update={"busy": ("GPU 0: pid 4242 python of li",)})
OTHERS = UPDATE.model_copy(update={"busy": ("GPU 0: pid 4343 python of wei",)})
FORCE = WhenBusy(policy="force", reason="exam")
WAIT = WhenBusy(policy="wait", seconds=60)


@pytest.mark.parametrize(
    ("saved", "now", "stale"),
    [
        ((BUSY, FORCE), (BUSY, FORCE), []),
        ((UPDATE, FORCE), (BUSY, FORCE), ["n1"]),  # no work was shown then
        ((BUSY, FORCE), (OTHERS, FORCE), ["n1"]),
        ((UPDATE, WAIT), (BUSY, WAIT), []),
        ((BUSY, WAIT), (BUSY, FORCE), ["n1"]),
        ((BUSY, FORCE), (BUSY, FORCE.model_copy(update={"reason": "another"})), ["n1"]),
    ],
)
def test_consent_to_stop_work_covers_only_the_work_that_was_shown(
    saved: tuple[Step, WhenBusy], now: tuple[Step, WhenBusy], stale: list[str]
) -> None:
    reviewed, made = (Plan(lab="demo", image=None, steps=(step,), when_busy=busy) for step, busy in (saved, now))
    assert [problem.node for problem in find_stale_nodes(reviewed, made)] == stale
