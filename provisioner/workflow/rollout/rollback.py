"""Plan a rollback: the generation that each node returns to, among those it keeps."""

from collections.abc import Sequence

from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.rollout.order import RollbackOrder, SeatName
from provisioner.domain.rollout.plan import Plan, Step, skipped, with_busy_policy
from provisioner.domain.seat.seat import seat_name_on
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Host, Probed


def plan_rollback(  # noqa: PLR0913  (whose seats, to which generation, and the policy for busy ones)
    lab: str, user: str, hosts: Sequence[Host], probed: Probed, to: int | None, *, when_busy: WhenBusy = DEFER
) -> Plan:
    """Plan the return of the user's seats to generation `to`; None: to the one before.

    Each node checks first that it has kept the generation.
    """
    steps = (_step(lab, user, host.name, probed[host.name], (to, when_busy)) for host in hosts)
    return Plan(lab=lab, image=None, steps=tuple(steps), when_busy=when_busy)


def rollback_orders(plan: Plan, run: str, to: int | None) -> dict[str, RollbackOrder]:
    """Return the order of each pending node. `expects`: a node whose generation has changed since refuses it."""
    return {
        step.node: RollbackOrder(
            run=run, seat=SeatName(name=step.seat), to=to or 0, expects=step.generation, when_busy=plan.when_busy
        )
        for step in plan.pending
        if step.seat
    }


def _step(lab: str, user: str, node: str, facts: NodeFacts | Problem, how: tuple[int | None, WhenBusy]) -> Step:
    if isinstance(facts, Problem):
        return skipped(node, (facts,))
    (to, when_busy), name = how, seat_name_on(facts, lab, user)
    seat = facts.seat(name)
    if seat and seat.unreadable:
        return skipped(node, seat.unreadable)
    if seat is None or not seat.generation:
        what, fix = f"{node} has no seat {name}", "provision rollout creates the seat"
        return skipped(node, (Problem("no_seat", what, "there is nothing to roll back", fix, node),))
    wanted = to or seat.previous
    if not wanted:
        return skipped(node, (_no_earlier_generation(node, seat.generation),))
    if wanted == seat.generation:
        return Step(node=node, seat=name, action="keep", why=f"runs generation {wanted}", generation=wanted)
    why = f"from generation {seat.generation} back to {wanted}"
    step = Step(node=node, seat=name, action="update", why=why, generation=seat.generation)
    return with_busy_policy(step, seat, when_busy)


def _no_earlier_generation(node: str, generation: int) -> Problem:
    return Problem(
        "nothing_to_go_back_to",
        f"{node} keeps no generation before {generation}",
        "this is its first one, or it was rolled back already; a node keeps one generation besides the current one",
        "set image.torch in lab.yml, then: provision lock, provision rollout",
        node,
    )
