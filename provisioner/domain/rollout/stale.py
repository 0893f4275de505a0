"""Whether a plan that was saved and reviewed is still the plan that would be made now."""

from provisioner.domain.rollout.busy import WhenBusy
from provisioner.domain.rollout.plan import Plan, Step
from provisioner.domain.values.problem import Problem


def moved_since(saved: Plan, now: Plan) -> list[Problem]:
    """What moved; empty where rolling out `now` does what was reviewed. `now` may be of fewer nodes (--limit)."""
    if saved.lab != now.lab:
        return [_other_lab(saved.lab, now.lab)]
    reviewed = {step.node: _substance(step, saved) for step in saved.steps}
    return [_moved(step.node) for step in now.steps if reviewed.get(step.node) != _substance(step, now)]


def _substance(step: Step, plan: Plan) -> tuple[Step, WhenBusy]:
    """What decides the outcome: not why a node is left alone, nor that an image has come to it meanwhile.

    To stop somebody's work is agreed for those who were shown; to wait is agreed for whoever there is.
    """
    if step.action in {"skip", "defer"}:
        return Step(node=step.node, seat=None, action=step.action, why=""), WhenBusy()
    waits = {"busy": (), "why": ""} if plan.when_busy.policy == "wait" else {}
    return step.model_copy(update={"bytes_to_pull": 0, "problems": (), **waits}), plan.when_busy


def _moved(node: str) -> Problem:
    return Problem(
        "plan_stale",
        f"{node} is no longer as the saved plan has it",
        "what was reviewed is what runs, or nothing does",
        "make and review the plan again: provision plan -o FILE",
    )


def _other_lab(saved: str, now: str) -> Problem:
    return Problem(
        "plan_stale",
        f"the saved plan is of the lab {saved}, not of {now}",
        "what was reviewed is what runs, or nothing does",
        "give the plan of this lab",
    )
