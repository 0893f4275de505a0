import pytest

from provisioner.domain.rollout.busy import WhenBusy
from provisioner.domain.rollout.plan import Plan, Step
from provisioner.domain.rollout.stale import moved_since
from provisioner.domain.values.problem import Problem

UPDATE = Step(node="n1", seat="demo-li", action="update", why="the image changes", generation=3, diff="-a\n+b\n")
KEEP = Step(node="n2", seat="demo-li", action="keep", why="as locked", generation=1)
DOWN = Problem("unreachable", "no route", "w", "f")


def a_plan(*steps: Step, lab: str = "demo") -> Plan:
    return Plan(lab=lab, image=None, steps=steps)


@pytest.mark.parametrize(
    ("now", "moved"),
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
def test_what_was_reviewed_is_what_runs(now: list[Step], moved: list[str]) -> None:
    found = moved_since(a_plan(UPDATE, KEEP), a_plan(*now))
    assert [problem.what.split()[0] for problem in found] == moved


def test_why_a_node_is_left_alone_does_not_matter() -> None:
    saved = Step(node="n1", seat=None, action="skip", why="no route", problems=(DOWN,))
    assert moved_since(a_plan(saved), a_plan(saved.model_copy(update={"why": "timed out", "problems": ()}))) == []


def test_another_labs_plan() -> None:
    (problem,) = moved_since(a_plan(UPDATE), a_plan(UPDATE, lab="other"))
    assert problem.what == "the saved plan is of the lab demo, not of other"


BUSY = UPDATE.model_copy(update={"busy": ("GPU 0: pid 4242 python of li",)})
OTHERS = UPDATE.model_copy(update={"busy": ("GPU 0: pid 4343 python of wei",)})
FORCE = WhenBusy(policy="force", reason="exam")
WAIT = WhenBusy(policy="wait", seconds=60)


@pytest.mark.parametrize(
    ("saved", "now", "moved"),
    [
        ((BUSY, FORCE), (BUSY, FORCE), []),
        ((UPDATE, FORCE), (BUSY, FORCE), ["n1"]),  # nobody was shown then
        ((BUSY, FORCE), (OTHERS, FORCE), ["n1"]),
        ((UPDATE, WAIT), (BUSY, WAIT), []),
        ((BUSY, WAIT), (BUSY, FORCE), ["n1"]),
        ((BUSY, FORCE), (BUSY, FORCE.model_copy(update={"reason": "another"})), ["n1"]),
    ],
)
def test_consent_to_stop_work_is_for_the_work_that_was_shown(
    saved: tuple[Step, WhenBusy], now: tuple[Step, WhenBusy], moved: list[str]
) -> None:
    reviewed, made = (Plan(lab="demo", image=None, steps=(step,), when_busy=busy) for step, busy in (saved, now))
    assert [problem.what.split()[0] for problem in moved_since(reviewed, made)] == moved
