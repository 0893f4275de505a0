"""Cards that running seats still have: no other seat gets them before these seats have changed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from provisioner.domain.rollout.plan import Step
from provisioner.domain.seat.document import SeatBundle
from provisioner.domain.seat.seat import Seat
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

    A seat that is deferred holds on to its own cards in turn.
    """
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
    holder = _holder(seat, held) if seat and step.starts else None
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
