"""Ports and subnets that become free for others, because the term of the person who had them is over."""

from collections.abc import Collection
from datetime import date

from provisioner.domain.lab.lab import Lab
from provisioner.domain.values.node import NodeFacts, RunningSeat


def without_freed_pairs(facts: NodeFacts, lab: Lab, present: Collection[str], today: date) -> NodeFacts:
    """Return the facts in which the seats of an earlier term have neither ports nor a subnet, so that others get them.

    Such a seat was stopped by the end of the term, and its person is not `present` in the roster. `today`: in the lab.
    A seat that its person has started themselves keeps both, as the broker of the node has its own rule.
    """
    ends = lab.people.term_ends if lab.people else None
    if ends is None or today <= ends:
        return facts
    seats = (_without_pair(seat) if _is_over(seat, lab.name, present, ends) else seat for seat in facts.seats)
    return facts.model_copy(update={"seats": tuple(seats)})


def _is_over(seat: RunningSeat, lab: str, present: Collection[str], ends: date) -> bool:
    has_left = seat.lab == lab and bool(seat.person) and seat.person not in present and not seat.is_self_service
    return has_left and seat.is_down and seat.stopped_on is not None and seat.stopped_on <= ends


def _without_pair(seat: RunningSeat) -> RunningSeat:
    return seat.model_copy(update={"ports": {}, "subnet": ""})
