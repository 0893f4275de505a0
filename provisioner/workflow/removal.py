"""Taking seats down, as a plan: every node that answers is asked, for what is left of a seat need not be whole."""

from provisioner.domain.node import NodeFacts, RunningSeat
from provisioner.domain.plan import Plan, Step, skipped
from provisioner.domain.problem import Problem
from provisioner.workflow.hands import Probed


def removal(lab: str, seat: str, probed: Probed) -> Plan:
    steps = (
        skipped(node, (facts,)) if isinstance(facts, Problem) else _step(node, seat, facts)
        for node, facts in probed.items()
    )
    return Plan(lab=lab, image=None, steps=tuple(steps))


def _step(node: str, seat: str, facts: NodeFacts) -> Step:
    running = seat_of(facts, seat)
    generation = running.generation if running else 0
    return Step(node=node, seat=seat, action="update", why="it is to be taken down", generation=generation)


def seat_of(facts: NodeFacts, name: str) -> RunningSeat | None:
    return next((seat for seat in facts.seats if seat.name == name), None)
