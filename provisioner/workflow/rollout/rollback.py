"""Going back, as a plan: to which generation each node would return, of those that it keeps."""

from collections.abc import Sequence

from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.rollout.order import BackOrder, NamedSeat
from provisioner.domain.rollout.plan import Plan, Step, minding, skipped
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Host, Probed
from provisioner.workflow.rollout.removal import seat_of


def rollback(  # noqa: PLR0913  (whose seats, how far, and what becomes of those who work there)
    lab: str, seat: str, hosts: Sequence[Host], probed: Probed, to: int | None, *, when_busy: WhenBusy = DEFER
) -> Plan:
    """`to` None: to what each node ran before. Whether a node keeps `to` it says itself, before anything stops."""
    steps = (_step(host.name, seat, probed[host.name], to, when_busy) for host in hosts)
    return Plan(lab=lab, image=None, steps=tuple(steps), when_busy=when_busy)


def back_orders(plan: Plan, run: str, to: int | None) -> dict[str, BackOrder]:
    """`expects` is what the plan saw: a node that has moved since goes back from nowhere."""
    return {
        step.node: BackOrder(
            run=run, seat=NamedSeat(name=step.seat), to=to or 0, expects=step.generation, when_busy=plan.when_busy
        )
        for step in plan.pending
        if step.seat
    }


def _step(node: str, name: str, facts: NodeFacts | Problem, to: int | None, when_busy: WhenBusy) -> Step:
    if isinstance(facts, Problem):
        return skipped(node, (facts,))
    seat = seat_of(facts, name)
    if seat is None or not seat.generation:
        return skipped(node, (_nothing_runs(node, name),))
    wanted = to or seat.previous
    if not wanted:
        return skipped(node, (_nothing_kept(node, seat.generation),))
    if wanted == seat.generation:
        return Step(node=node, seat=name, action="keep", why=f"runs generation {wanted}", generation=wanted)
    why = f"from generation {seat.generation} back to {wanted}"
    step = Step(node=node, seat=name, action="update", why=why, generation=seat.generation)
    return minding(step, seat, when_busy)


def _nothing_runs(node: str, name: str) -> Problem:
    return Problem(
        "no_seat", f"{node} has no seat {name}", "there is nothing to go back from", "provision rollout brings the seat"
    )


def _nothing_kept(node: str, generation: int) -> Problem:
    return Problem(
        "nothing_to_go_back_to",
        f"{node} keeps no generation before {generation}",
        "this is its first one, or it has gone back already; a node keeps one generation beside the present",
        "set image.torch in lab.yml, then: provision lock, provision rollout",
    )
