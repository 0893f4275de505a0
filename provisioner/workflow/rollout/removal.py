"""Taking seats down, as a plan: every node that answers is asked, for what is left of a seat need not be whole."""

from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.rollout.order import DownOrder, NamedSeat
from provisioner.domain.rollout.plan import Plan, Step, minding, skipped
from provisioner.domain.rollout.run_spec import RunSpec
from provisioner.domain.values.node import NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Probed


def removal(lab: str, seat: str, probed: Probed, *, when_busy: WhenBusy = DEFER) -> Plan:
    steps = (
        skipped(node, (facts,)) if isinstance(facts, Problem) else _step(node, seat, facts, when_busy)
        for node, facts in probed.items()
    )
    return Plan(lab=lab, image=None, steps=tuple(steps), when_busy=when_busy)


def down_orders(what: RunSpec) -> dict[str, DownOrder]:
    return {
        step.node: DownOrder(
            run=what.run,
            act="remove",
            claim=what.claim,
            seat=NamedSeat(name=step.seat),
            when_busy=what.plan.when_busy,
        )
        for step in what.plan.pending
        if step.seat
    }


def _step(node: str, seat: str, facts: NodeFacts, when_busy: WhenBusy) -> Step:
    running = seat_of(facts, seat)
    generation = running.generation if running else 0
    step = Step(node=node, seat=seat, action="remove", why="it is to be taken down", generation=generation)
    return minding(step, running, when_busy) if running else step


def seat_of(facts: NodeFacts, name: str) -> RunningSeat | None:
    return next((seat for seat in facts.seats if seat.name == name), None)
