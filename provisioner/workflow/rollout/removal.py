"""Plan the removal of seats. Every reachable node has a step, since the remains of a seat may be incomplete."""

from collections.abc import Iterator

from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.rollout.order import HeldGpus, RemovalOrder, SeatName
from provisioner.domain.rollout.plan import Plan, Step, skipped, with_busy_policy
from provisioner.domain.rollout.run_spec import RunSpec
from provisioner.domain.seat.seat import seat_names_on
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Probed


def plan_removal(lab: str, user: str, probed: Probed, *, when_busy: WhenBusy = DEFER) -> Plan:
    """Plan to remove all seats of the lab from every probed node; `user` is that of a lab without a roster."""
    steps = (step for node, facts in probed.items() for step in _steps(lab, user, node, facts, when_busy))
    return Plan(lab=lab, image=None, steps=tuple(steps), when_busy=when_busy)


def removal_orders(run_spec: RunSpec) -> dict[str, dict[str, RemovalOrder]]:
    """Return the orders of the seats that a run removes or stops, by node."""
    orders: dict[str, dict[str, RemovalOrder]] = {}
    for step in run_spec.plan.pending:
        if step.seat and step.node in run_spec.nodes and (step.action == "remove" or step.action == "stop"):  # noqa: PLR1714  (mypy knows the literal only so)
            orders.setdefault(step.node, {})[step.seat] = RemovalOrder(
                run=run_spec.run,
                act=step.action,
                claim=run_spec.claim and run_spec.claim.of_seats([step.seat]),
                seat=SeatName(name=step.seat),
                held=HeldGpus(gpus=step.gpus, shared=step.shared),
                when_busy=run_spec.plan.when_busy,
            )
    return orders


def _steps(lab: str, user: str, node: str, facts: NodeFacts | Problem, when_busy: WhenBusy) -> Iterator[Step]:
    if isinstance(facts, Problem):
        yield skipped(node, (facts,))
        return
    for name in seat_names_on(facts, lab, user):
        running = facts.seat(name)
        generation = running.generation if running else 0
        step = Step(node=node, seat=name, action="remove", why="the seat is removed", generation=generation)
        yield with_busy_policy(step, running, when_busy) if running else step
