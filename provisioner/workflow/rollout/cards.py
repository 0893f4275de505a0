"""Cards that running seats still have, or that people can still lease: no other seat gets them before that has changed.

Where the seats that have them change in the same run, the node carries out their orders first. A pool gets smaller only
after the seats of its node.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from provisioner.domain.rollout.plan import Step
from provisioner.domain.seat.document import SeatBundle
from provisioner.domain.seat.seat import Seat
from provisioner.domain.self_service.pool import is_of_another_lab
from provisioner.domain.values.node import NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem

_UNCHANGED = frozenset({"defer", "skip"})


class PlannedSeat(NamedTuple):
    """A step with its rendered seat, None where it has none."""

    step: Step
    bundle: SeatBundle | None = None


def held_by_leaving(stops: Iterable[Step], facts: NodeFacts) -> set[str]:
    """Return the cards (UUIDs) that seats have alone which are to be stopped, and cannot be now."""
    left = {step.seat for step in stops if step.action in _UNCHANGED}
    return {card for seat in facts.seats if seat.name in left and not seat.shared for card in seat.gpus}


def defer_for_cards(planned: Sequence[PlannedSeat], facts: NodeFacts, lab: str) -> list[PlannedSeat]:
    """Defer each seat whose cards another seat of the lab still has: an own card has one user.

    A seat that is deferred holds on to its own cards in turn. Seats that get cards of each other are left out: none of
    them can be changed first.
    """
    pool = pool_in_force(lab, facts)
    planned = [_deferred_for_pool(seat, facts, pool) for seat in planned]
    found = _deferred_for_cards(planned, facts, lab)
    if names := _exchanging(_givers(found, facts)):
        left = [_left_out(seat, names, lab) if seat.step.seat in names else seat for seat in found]
        found = _deferred_for_cards(left, facts, lab)
    return found


def held_by_unchanged(planned: Sequence[PlannedSeat], facts: NodeFacts, lab: str) -> frozenset[str]:
    """Return the cards (UUIDs) of seats of the lab that are to have other ones, and are not changed by the plan."""
    held = _held_cards(planned, facts, lab)
    return frozenset(card for card, seat in held.items() if not seat.is_self_service)


def pool_in_force(lab: str, facts: NodeFacts) -> frozenset[str]:
    """Return the cards (UUIDs) that people can lease on a node now."""
    found = facts.self_service
    return frozenset() if found is None or is_of_another_lab(lab, found) else frozenset(found.pool)


def _deferred_for_pool(planned: PlannedSeat, facts: NodeFacts, pool: Collection[str]) -> PlannedSeat:
    """Defer a seat that gets cards which people can lease while it starts."""
    step, seat = planned.step, planned.bundle.seat if planned.bundle else None
    if seat is None or not (step.starts or step.action == "assign"):
        return planned
    running = facts.seat(seat.name)
    had = running.gpus if running and running.runs else ()
    cards = [card for card in seat.gpus if card in pool and card not in had]
    if not cards:
        return planned
    problem = _still_in_pool(step, cards)
    changes = {"action": "defer", "why": f"{step.why}; its GPUs can still be leased"}
    return planned._replace(step=step.model_copy(update={**changes, "problems": (*step.problems, problem)}))


def _still_in_pool(step: Step, cards: Sequence[str]) -> Problem:
    return Problem(
        "gpu_in_pool",
        f"{step.node}: {step.seat} gets {', '.join(cards)}, which people can lease until this rollout has ended",
        "an own GPU has one user: somebody could lease it while the seat starts",
        "this rollout takes it from the pool; run it again afterwards",
        step.node,
    )


def _deferred_for_cards(planned: Sequence[PlannedSeat], facts: NodeFacts, lab: str) -> list[PlannedSeat]:
    found = list(planned)
    while True:
        held = _held_cards(found, facts, lab)
        again = [_deferred(seat, held) for seat in found]
        if again == found:
            return found
        found = again


def _held_cards(planned: Iterable[PlannedSeat], facts: NodeFacts, lab: str) -> dict[str, RunningSeat]:
    """Return the cards of running seats that the plan leaves as they are although they are not as requested."""
    actions = {seat.step.seat: seat.step.action for seat in planned}
    running = (seat for seat in facts.seats if seat.lab == lab and not seat.is_down)
    # A person without a step has a seat that waits for the node of their place.
    held = (seat for seat in running if actions.get(seat.name, "skip" if seat.person else "keep") in _UNCHANGED)
    return {card: seat for seat in held for card in seat.gpus}


def _deferred(planned: PlannedSeat, held: Mapping[str, RunningSeat]) -> PlannedSeat:
    step, seat = planned.step, planned.bundle.seat if planned.bundle else None
    holder = _holder(seat, held) if seat and (step.starts or step.action == "assign") else None
    if holder is None:
        return planned
    problem = _still_in_use(step, holder)
    changes = {"action": "defer", "why": f"{step.why}; its GPUs are still those of another seat"}
    return planned._replace(step=step.model_copy(update={**changes, "problems": (*step.problems, problem)}))


def _holder(seat: Seat, held: Mapping[str, RunningSeat]) -> RunningSeat | None:
    """Return a seat that has one of the cards, unless both share it."""
    holders = (held[card] for card in seat.gpus if card in held)
    return next((one for one in holders if one.name != seat.name and not (seat.shared and one.shared)), None)


def _still_in_use(step: Step, holder: RunningSeat) -> Problem:
    return Problem(
        "gpu_held",
        f"{step.node}: {holder.name} still has GPUs that {step.seat} gets, and is not changed by this plan",
        "an own GPU has one user: two people would compute on it without knowing of each other",
        "see the step of that seat: when it can be changed, the same rollout changes both",
        step.node,
    )


def _givers(planned: Sequence[PlannedSeat], facts: NodeFacts) -> dict[str, set[str]]:
    """Return for each seat that is started the other changing seats which run with cards that it gets."""
    changing = {seat.step.seat for seat in planned if seat.step.action not in _UNCHANGED | {"keep"}}
    alone, shared = dict[str, set[str]](), dict[str, set[str]]()
    for running in facts.seats:
        for card in running.gpus if running.runs and running.name in changing else ():
            (shared if running.shared else alone).setdefault(card, set()).add(running.name)
    starting = [bundle.seat for step, bundle in planned if step.starts and bundle]
    return {seat.name: _users(seat, alone, {} if seat.shared else shared) - {seat.name} for seat in starting}


def _users(seat: Seat, *by_card: Mapping[str, set[str]]) -> set[str]:
    return {name for users in by_card for card in seat.gpus for name in users.get(card, ())}


def _exchanging(givers: Mapping[str, set[str]]) -> set[str]:
    """Return the seats of cycles: each gets cards of another one, and another one gets cards of it."""
    left = set(givers)
    while True:
        waited_for = {giver for name in left for giver in givers[name]}
        inner = {name for name in left if name in waited_for and givers[name] & left}
        if inner == left:
            return left
        left = inner


def _left_out(planned: PlannedSeat, names: Collection[str], lab: str) -> PlannedSeat:
    step = planned.step
    problem = _exchanged(step, sorted(names), lab)
    changes = {"action": "skip", "why": problem.what, "problems": (*step.problems, problem)}
    return planned._replace(step=step.model_copy(update=changes))


def _exchanged(step: Step, names: Sequence[str], lab: str) -> Problem:
    one = step.person or "PERSON"
    return Problem(
        "gpus_exchanged",
        f"{step.node}: {', '.join(names)} get GPUs of each other",
        "a seat runs with its GPUs until it gets others, and an own GPU has one user: none can be changed first",
        f"stop one of them, roll out, and start it again: provision seats stop {lab} {one} --reason TEXT; "
        f"provision rollout {lab}; provision seats start {lab} {one}",
        step.node,
    )
