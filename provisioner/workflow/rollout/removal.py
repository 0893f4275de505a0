"""Plan the removal of seats. Every node has a step, since the remains of a seat may be incomplete."""

from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.rollout.order import HeldGpus, RemovalOrder, SeatName
from provisioner.domain.rollout.plan import Plan, Step, skipped, with_busy_policy
from provisioner.domain.rollout.run_spec import RunSpec
from provisioner.domain.seat.seat import seat_names_on
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Probed
from provisioner.workflow.rollout.publications import withdrawals


def plan_removal(lab: str, user: str, probed: Probed, *, has_roster: bool = False, when_busy: WhenBusy = DEFER) -> Plan:
    """Plan to remove all seats of the lab, and its self-service, from every probed node.

    `user`: of the seat of each node. In a lab with a roster that seat is only removed where the node has it.
    """
    steps = list[Step]()
    for node, facts in probed.items():
        if isinstance(facts, Problem):
            steps.append(skipped(node, (facts,)))
            continue
        names = seat_names_on(facts, lab, user)
        found = [name for name in names if facts.seat(name)] if has_roster else names
        steps += [_step(facts, name, when_busy) for name in found] or [_nothing_to_remove(node)]
    publications = withdrawals(lab, probed, when_busy)
    return Plan(lab=lab, image=None, steps=tuple(steps), when_busy=when_busy, publications=publications)


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


def _step(facts: NodeFacts, name: str, when_busy: WhenBusy) -> Step:
    running = facts.seat(name)
    generation = running.generation if running else 0
    step = Step(node=facts.name, seat=name, action="remove", why="the seat is removed", generation=generation)
    return with_busy_policy(step, running, when_busy) if running else step


def _nothing_to_remove(node: str) -> Step:
    return Step(node=node, seat=None, action="keep", why="no seat of this lab on the node")
