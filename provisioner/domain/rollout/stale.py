"""Whether a saved and reviewed plan is still the plan that would be made now."""

from provisioner.domain.rollout.busy import WhenBusy
from provisioner.domain.rollout.plan import Plan, Step
from provisioner.domain.self_service.publication import Publication
from provisioner.domain.values.problem import Problem

_WHY = "a rollout applies exactly the plan that was reviewed, or nothing"


def find_stale_nodes(saved: Plan, now: Plan) -> list[Problem]:
    """Return a Problem for each node that changed since the review; `node` is None if the lab is another one.

    It is empty if a rollout of `now` does what was reviewed. `now` may have fewer nodes (--limit).
    """
    if saved.lab != now.lab:
        what = f"the saved plan is of the lab {saved.lab}, not of {now.lab}"
        return [Problem("plan_stale", what, _WHY, "give the plan of this lab")]
    reviewed, found = _by_node(saved), _by_node(now)
    published, publications = _published(saved), _published(now)
    changed = [
        node
        for node in now.nodes
        if reviewed.get(node) != found.get(node) or published.get(node) != publications.get(node)
    ]
    fix = "make and review the plan again: provision plan -o FILE"
    return [Problem("plan_stale", f"{node} has changed since the plan was saved", _WHY, fix, node) for node in changed]


def _by_node(plan: Plan) -> dict[str, list[tuple[Step, WhenBusy]]]:
    by_node: dict[str, list[tuple[Step, WhenBusy]]] = {}
    for step in plan.steps:
        by_node.setdefault(step.node, []).append(_relevant_fields(step, plan))
    return by_node


def _published(plan: Plan) -> dict[str, Publication]:
    """Return by node what decides the outcome of a publication: not the words, and not the problems."""
    ignored: dict[str, object] = {"why": "", "changes": (), "problems": (), "bytes_to_pull": 0}
    if plan.when_busy.policy == "wait":
        ignored["busy"] = ()
    return {
        publication.node: publication.model_copy(update=ignored)
        if publication.action not in {"skip", "defer"}
        else Publication(node=publication.node, action=publication.action, why="")
        for publication in plan.publications
    }


def _relevant_fields(step: Step, plan: Plan) -> tuple[Step, WhenBusy]:
    """Return what decides the outcome: not the reason for a skipped node, and not whether the image is already there.

    Consent to stop work covers only the work that was shown; consent to wait covers any work.
    """
    if step.action in {"skip", "defer"}:
        return Step(node=step.node, seat=step.seat, action=step.action, why=""), WhenBusy()
    ignored: dict[str, object] = {"busy": (), "why": ""} if plan.when_busy.policy == "wait" else {}
    # The generation says which GPUs it has.
    ignored |= {"bytes_to_pull": 0, "problems": (), "remarks": (), "gpus": (), "shared": False}
    return step.model_copy(update=ignored), plan.when_busy
