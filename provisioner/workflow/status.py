"""What runs where: the plan that would be made now, read as a finding."""

from provisioner.domain.rollout.plan import Step
from provisioner.domain.rollout.report import access_of
from provisioner.domain.rollout.status import LabStatus, SeatStatus
from provisioner.domain.values.node import NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Probed
from provisioner.workflow.rollout.plan import PreparedPlan


def status(prepared: PreparedPlan, probed: Probed, *, local: bool = False) -> LabStatus:
    """One entry per node of the plan, in its order."""
    seats = tuple(_seat(step, prepared, probed, local=local) for step in prepared.plan.steps)
    return LabStatus(lab=prepared.plan.lab, seats=seats)


def _seat(step: Step, prepared: PreparedPlan, probed: Probed, *, local: bool) -> SeatStatus:
    running = _running(step, probed)
    bundle = prepared.bundles.get(step.node)
    return SeatStatus(
        node=step.node,
        seat=step.seat,
        image=running.image if running else None,
        generation=step.generation,
        services=running.services if running else {},
        drift=_drift(step, running),
        access=access_of(bundle.seat, running.host_key, local=local) if bundle and running else None,
        problems=step.problems + (running.drift if running else ()),
        remarks=_remarks(probed[step.node], running),
    )


def _drift(step: Step, running: RunningSeat | None) -> str:
    """What the plan would change; else the first thing that the node itself finds."""
    if step.action != "keep":
        return step.why
    return running.drift[0].what if running and running.drift else ""


def _remarks(facts: NodeFacts | Problem, running: RunningSeat | None) -> tuple[str, ...]:
    """Who has it in hand now, and who brought it back on purpose."""
    if isinstance(facts, Problem):
        return ()
    now, last = facts.claim, facts.last
    held = (f"held by {now.verb or 'a run'} {now.run} of {now.holder} since {now.since}",) if now else ()
    back = running and last and last.verb == "rollback" and running.run == last.run
    return (*held, f"brought back on purpose by {last.holder}, run {last.run}") if last and back else held


def _running(step: Step, probed: Probed) -> RunningSeat | None:
    facts = probed[step.node]
    if not isinstance(facts, NodeFacts):
        return None
    return next((seat for seat in facts.seats if seat.name == step.seat), None)
