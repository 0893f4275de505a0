"""Which seats the people of a roster have on each node, and which seats of the lab are stopped."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from typing import NamedTuple

from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import LockedImage, Placement
from provisioner.domain.people.person import Person
from provisioner.domain.people.placement import NodeOffer, Placements, place, shared_gpus
from provisioner.domain.rollout.busy import WhenBusy
from provisioner.domain.rollout.plan import Step, skipped, with_busy_policy
from provisioner.domain.seat.owner import person_owner
from provisioner.domain.seat.seat import SeatOwner, person_seat_name_on
from provisioner.domain.values.node import NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.size import human_size, size_bytes
from provisioner.workflow.protocols import Host

_MEMORY_TIMES = 2  # the limits of all seats of a node may add up to so many times its memory


class ServedNode(NamedTuple):
    """A node that gets seats: from this image and with these GPUs (UUIDs). `remarks`: problems that prevent none."""

    host: Host
    facts: NodeFacts
    image: LockedImage
    gpus: tuple[str, ...]
    remarks: tuple[Problem, ...]


class SeatRequest(NamedTuple):
    """A seat to plan. `cautions`: consequences that the admin is told."""

    owner: SeatOwner
    gpus: tuple[str, ...]
    shared: bool = False
    cautions: tuple[Problem, ...] = ()


class Seating(NamedTuple):
    """Who has a seat where. `requests`: by node, with a step in the place of each seat that cannot be planned.

    `ended`: by node the seats to stop, with the reason. `places` go into the lock. `unplaced`: people without a node.
    """

    requests: dict[str, list[SeatRequest | Step]]
    ended: dict[str, dict[str, str]]
    places: dict[str, Placement]
    unplaced: dict[str, Problem]


def people_within(
    people: Sequence[Person], nodes: Collection[str], before: Mapping[str, Placement]
) -> tuple[Person, ...]:
    """Return who is planned for with a limit: who has a place already, and whose row names one of these nodes.

    Others are not placed, because a node outside of the limit may have more room for them.
    """
    return tuple(person for person in people if person.id in before or person.node in nodes)


def seat_people(  # noqa: PLR0913  (the people, the nodes, and what is remembered)
    lab: Lab,
    people: Sequence[Person],
    served: Mapping[str, ServedNode | None],
    before: Mapping[str, Placement],
    today: date,
    *,
    limited: bool = False,
) -> Seating:
    """Place the people of the roster. `served`: the nodes that are planned for, None where one gets no seat now.

    `before`: the places that the lock remembers. A person whose last day is before `today`, or whose place is stopped,
    has no seat. `limited`: the lab has other nodes, which nothing is known of.
    """
    offers = {name: NodeOffer(name=name, gpus=node.gpus if node else None) for name, node in served.items()}
    if limited:
        offers = {held.node: NodeOffer(name=held.node, gpus=None) for held in before.values()} | offers
    placements = place(people, list(offers.values()), before)
    stopped = {name for name, held in placements.places.items() if held.stopped}
    present = [
        person for person in people if (person.until is None or person.until >= today) and person.id not in stopped
    ]
    seating = Seating({}, {}, dict(placements.places), {})
    for person in present:
        _seat_person(lab, person, served, offers, placements, seating)
    for name, node in served.items():
        if node is not None:
            seating.ended[name] = dict(_ended(lab, node, people, present, placements.places))
            _limit_memory(node, seating.requests.get(name, []))
    return seating


def _seat_person(  # noqa: PLR0913, PLR0917  (a person, the nodes and what is collected)
    lab: Lab,
    person: Person,
    served: Mapping[str, ServedNode | None],
    offers: Mapping[str, NodeOffer],
    placements: Placements,
    seating: Seating,
) -> None:
    held, problem = placements.places.get(person.id), placements.problems.get(person.id)
    if held is None or held.node not in served:
        if problem is not None:
            seating.unplaced[person.id] = problem
        return
    node = served[held.node]
    if node is None:
        return  # the step of the node says why
    requests = seating.requests.setdefault(held.node, [])
    owner = problem or person_owner(lab, node.facts, person, held)
    if isinstance(owner, Problem):
        requests.append(skipped(held.node, (owner,), person_seat_name_on(node.facts, lab.name, person.id), person.id))
        return
    seating.places[person.id] = held.model_copy(update={"uid": owner.uid})
    is_shared = person.gpus == "shared"
    gpus = shared_gpus(offers[held.node], placements.places) if is_shared else held.gpus
    caution = placements.cautions.get(person.id)
    requests.append(SeatRequest(owner, gpus, is_shared, (caution,) if caution else ()))


def _ended(
    lab: Lab,
    node: ServedNode,
    people: Sequence[Person],
    present: Sequence[Person],
    places: Mapping[str, Placement],
) -> Iterator[tuple[str, str]]:
    """Yield the running seats of the lab that nobody of the roster has on this node, with the reason."""
    name, facts = node.host.name, node.facts
    here = [person for person in present if person.id in places and places[person.id].node == name]
    kept = {person_seat_name_on(facts, lab.name, person.id) for person in here}
    whose = {person_seat_name_on(facts, lab.name, person.id): person for person in people}
    for seat in facts.seats:
        if seat.lab == lab.name and seat.generation and not seat.is_down and seat.name not in kept:
            yield seat.name, _why_ended(seat, whose.get(seat.name), present, places)


def _why_ended(
    seat: RunningSeat, person: Person | None, present: Collection[Person], places: Mapping[str, Placement]
) -> str:
    if person is None and not seat.person:
        return "the lab has a roster now, so this seat is stopped; its home stays"
    if person is None:
        return "no row of the roster any more: the seat is stopped, its home stays"
    if person.id in places and (reason := places[person.id].stopped):
        return f"stopped by `provision seats stop`: {reason}; its home stays, and its person keeps the place"
    if person not in present:
        return f"its last day was {person.until}: the seat is stopped, its home stays"
    return "its person has a seat on another node: this one is stopped, its home stays"


def stop_step(facts: NodeFacts, name: str, why: str, when_busy: WhenBusy) -> Step:
    """Build the step that stops a seat which nobody has any more."""
    seat = facts.seat(name)
    if seat is None:
        return Step(node=facts.name, seat=name, action="stop", why=why)
    step = Step(node=facts.name, seat=name, person=seat.person, action="stop", why=why, generation=seat.generation)
    return with_busy_policy(step, seat, when_busy)


def _limit_memory(node: ServedNode, requests: list[SeatRequest | Step]) -> None:
    """Refuse all seats of a node whose limits add up to too much, and say where seats are not limited."""
    wanted = [request for request in requests if isinstance(request, SeatRequest)]
    limited = [size_bytes(memory) for r in wanted if (memory := r.owner.limits.memory) not in {"auto", "none"}]
    total = node.facts.engine.capacity.memory if node.facts.engine else None
    if total is not None and sum(limited) > _MEMORY_TIMES * total:
        problem = _too_much_memory(node.host.name, len(limited), sum(limited), total)
        requests[:] = [_without_memory(node.host.name, request, problem) for request in requests]
    elif len(wanted) > 1 and len(limited) < len(wanted):
        first = requests.index(wanted[0])
        caution = _memory_not_limited(node.host.name, len(wanted) - len(limited))
        requests[first] = wanted[0]._replace(cautions=(*wanted[0].cautions, caution))


def _without_memory(node: str, request: SeatRequest | Step, problem: Problem) -> Step:
    if isinstance(request, Step):
        return request
    return skipped(node, (problem,), request.owner.name, request.owner.person)


def _too_much_memory(node: str, seats: int, wanted: int, total: int) -> Problem:
    return Problem(
        "memory_overcommitted",
        f"{node}: the limits of {seats} seats add up to {human_size(wanted)} of memory; it has {human_size(total)}",
        f"above {_MEMORY_TIMES} times the memory of a node, seats that use what they may end the programs of others",
        "lower groups.NAME.memory in lab.yml, or name other nodes in the roster",
        node,
    )


def _memory_not_limited(node: str, seats: int) -> Problem:
    return Problem(
        "memory_not_limited",
        f"{node}: {seats} of its seats have no limit of memory in their group",
        "each of them may use nearly all memory of the node, and end the programs of others by it",
        "set groups.NAME.memory in lab.yml, such as 32g",
        node,
    )
