"""Plan the removal of seats. Every reachable node has a step, since the remains of a seat may be incomplete."""

from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.rollout.order import RemovalOrder, SeatName
from provisioner.domain.rollout.plan import Plan, Step, skipped, with_busy_policy
from provisioner.domain.rollout.run_spec import RunSpec
from provisioner.domain.seat.seat import seat_name_on
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Probed


def plan_removal(lab: str, user: str, probed: Probed, *, when_busy: WhenBusy = DEFER) -> Plan:
    """Plan to remove the user's seat of the lab from every probed node."""
    steps = (
        skipped(node, (facts,))
        if isinstance(facts, Problem)
        else _step(node, seat_name_on(facts, lab, user), facts, when_busy)
        for node, facts in probed.items()
    )
    return Plan(lab=lab, image=None, steps=tuple(steps), when_busy=when_busy)


def removal_orders(run_spec: RunSpec) -> dict[str, RemovalOrder]:
    """Return the order of each node that a removal changes."""
    return {
        step.node: RemovalOrder(
            run=run_spec.run,
            act="remove",
            claim=run_spec.claim,
            seat=SeatName(name=step.seat),
            when_busy=run_spec.plan.when_busy,
        )
        for step in run_spec.plan.pending
        if step.seat
    }


def _step(node: str, seat: str, facts: NodeFacts, when_busy: WhenBusy) -> Step:
    running = facts.seat(seat)
    generation = running.generation if running else 0
    step = Step(node=node, seat=seat, action="remove", why="the seat is removed", generation=generation)
    return with_busy_policy(step, running, when_busy) if running else step
