"""Which seats the people of a roster have on each node, and which seats of the lab are stopped."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date
from typing import NamedTuple

from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import Placement
from provisioner.domain.people.person import Person
from provisioner.domain.people.placement import NodeOffer, Placements, is_allowed, shared_gpus
from provisioner.domain.rollout.busy import WhenBusy
from provisioner.domain.rollout.plan import Step, skipped, with_busy_policy
from provisioner.domain.seat.owner import person_owner
from provisioner.domain.seat.seat import SeatOwner, person_seat_name_on
from provisioner.domain.values.node import NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.size import human_size, size_bytes
from provisioner.workflow.rollout.pools import Pools, has_self_service, place_beside_pools, pools_without_people
from provisioner.workflow.rollout.served import ServedNode, unusable_gpus

_MEMORY_TIMES = 2  # the limits of all seats of a node may add up to so many times its memory


class SeatRequest(NamedTuple):
    """A seat to plan. `gpus`: those of a new generation. `cautions`: consequences that the admin is shown."""

    owner: SeatOwner
    gpus: tuple[str, ...]
    shared: bool = False
    cautions: tuple[Problem, ...] = ()

    def gpus_beside(self, running: RunningSeat | None) -> tuple[str, ...]:
        """Return the GPUs that go with the generation in force.

        A person who shares keeps their cards while no other person has one of them alone: a card that is freed is no
        reason to restart seats.
        """
        is_kept = self.shared and running and running.shared and running.gpus and {*running.gpus} <= {*self.gpus}
        return running.gpus if running and is_kept else self.gpus

    def without_shared(self, cards: Collection[str]) -> "SeatRequest":
        """Return the request without these cards where they would be shared, unless none is left."""
        left = tuple(card for card in self.gpus if card not in cards)
        return self._replace(gpus=left) if self.shared and left else self


class Seating(NamedTuple):
    """Who has a seat where. `requests`: by node, with a step in the place of each seat that cannot be planned.

    `ended`: by node the seats to stop, with the reason. `places` go into the lock. `unplaced`: people without a node.
    `remarks`: of nodes, which prevent no seat. `pools`: of the nodes with self-service.
    """

    requests: dict[str, list[SeatRequest | Step]]
    ended: dict[str, dict[str, str]]
    places: dict[str, Placement]
    unplaced: dict[str, Problem]
    remarks: dict[str, tuple[Problem, ...]]
    pools: Pools = {}


def people_within(
    people: Sequence[Person], nodes: Collection[str], before: Mapping[str, Placement]
) -> tuple[Person, ...]:
    """Return who is placed with a limit: who has a place already, and whose row names one of these nodes.

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

    `before`: the places that the lock remembers; who has none there keeps the place of a running seat. A person whose
    last day is before `today`, or whose place is stopped, has no seat. `limited`: nothing is known of the other nodes.
    """
    before = {**_places_of_seats(lab, people, served), **before}
    placed = people_within(people, served, before) if limited else people
    unknown = {held.node: NodeOffer(name=held.node, gpus=None) for held in before.values() if limited}
    placements, pools, offers = place_beside_pools(lab, served, placed, before, unknown)
    shared = {name: shared_gpus(offers[name], placements.places) for name in served}
    rows = {person.id: person for person in people}
    table = _Table(lab, served, shared, placements, rows, today)
    seating = Seating({}, {}, dict(placements.places), {}, {}, pools)
    for person in people:
        if table.has_seat(person.id):
            _seat_person(table, person, seating, limited=limited)
    for name, node in served.items():
        if node is not None:
            seating.remarks[name] = _limit_memory(node, seating.requests.get(name, []))
    for name, node in served.items():
        if node is not None:
            seating.ended[name] = dict(_ended(table, node, seating))
    return seating


class _Table(NamedTuple):
    """Where people are placed, and which cards of each served node they share. `rows`: everybody, by id."""

    lab: Lab
    served: Mapping[str, ServedNode | None]
    shared: Mapping[str, tuple[str, ...]]
    placements: Placements
    rows: Mapping[str, Person]
    today: date

    def has_seat(self, person: str) -> bool:
        """Whether the person is in the roster, their last day is not over, and their seat is not to be stopped."""
        row, place = self.rows.get(person), self.placements.places.get(person)
        is_stopped = place is not None and bool(place.stopped)
        return row is not None and not is_stopped and (row.until is None or row.until >= self.today)


def _places_of_seats(
    lab: Lab, people: Sequence[Person], served: Mapping[str, ServedNode | None]
) -> dict[str, Placement]:
    """Return the places that running seats show, for a lock that was lost or not merged: no person is moved by that."""
    known = {person.id for person in people}
    return {
        seat.person: Placement(node=name, uid=seat.uid, gpus=() if seat.shared else seat.gpus)
        for name, node in served.items()
        if node is not None
        for seat in node.facts.seats
        if seat.lab == lab.name and seat.person in known and seat.runs and not seat.is_self_service
    }


def _seat_person(table: _Table, person: Person, seating: Seating, *, limited: bool) -> None:
    held, problem = table.placements.places.get(person.id), table.placements.problems.get(person.id)
    if held is None or held.node not in table.served:
        if problem is not None and not (limited and held):
            seating.unplaced[person.id] = problem
        return
    node = table.served[held.node]
    if node is None:
        return  # the step of the node says why
    requests = seating.requests.setdefault(held.node, [])
    if problem is not None and limited and not is_allowed(person, held.node):
        problem = _outside_of_limit(person, held)
    problem = node.refusal(person.environment, f"{person.id} (row {person.row} of the roster)") or problem
    owner = problem or _own_seat_problem(table, person, node) or person_owner(table.lab, node.facts, person, held)
    if not isinstance(owner, Problem):
        owner = _unusable_gpus(person, node, held) or owner
    if isinstance(owner, Problem):
        seat = person_seat_name_on(node.facts, table.lab.name, person.id)
        requests.append(skipped(held.node, (owner,), seat, person.id))
        return
    seating.places[person.id] = held.model_copy(update={"uid": owner.uid})
    is_shared = person.gpus == "shared"
    usable = node.environments[person.environment].gpus
    gpus = tuple(gpu for gpu in table.shared[held.node] if gpu in usable) if is_shared else held.gpus
    caution = table.placements.cautions.get(person.id)
    requests.append(SeatRequest(owner, gpus, is_shared, (caution,) if caution else ()))


def _unusable_gpus(person: Person, node: ServedNode, held: Placement) -> Problem | None:
    """Return why the person gets no seat with the cards of their place: their environment does not run on some."""
    usable = {*node.environments[person.environment].gpus}
    wrong = tuple(gpu for gpu in held.gpus if gpu not in usable)
    whose = f"{person.id} (row {person.row} of the roster)"
    return unusable_gpus(node.host.name, person.environment, whose, wrong) if wrong else None


def _own_seat_problem(table: _Table, person: Person, node: ServedNode) -> Problem | None:
    """Return why the person gets no seat while one that they have started themselves runs on the node."""
    name = table.lab.name
    own = (seat for seat in node.facts.seats if seat.is_self_service and seat.lab == name and seat.person == person.id)
    running = next((seat.name for seat in own if seat.runs), None)
    if running is None:
        return None
    return Problem(
        "seat_of_self_service",
        f"{node.host.name}: {person.id} (row {person.row} of the roster) runs {running}, which they have started"
        " themselves",
        "a person has one seat on a node, and a rollout ends no lease",
        f"end it first: provision seats release {name} {person.id}; then roll out again",
        node.host.name,
    )


def _ended(table: _Table, node: ServedNode, seating: Seating) -> Iterator[tuple[str, str]]:
    """Yield the running seats of the lab that no person of the roster has on this node, with the reason."""
    requests = seating.requests.get(node.host.name, [])
    kept = {request.seat if isinstance(request, Step) else request.owner.name for request in requests}
    for seat in node.facts.seats:
        if seat.lab != table.lab.name or not seat.runs or seat.name in kept or seat.is_self_service:
            continue
        if not table.has_seat(seat.person) or _has_another_seat(seat.person, seating):
            yield seat.name, _why_ended(table, seat)


def _has_another_seat(person: str, seating: Seating) -> bool:
    """Whether the person gets a seat on the node of their place. If not, one on another node goes on running."""
    place = seating.places.get(person)
    requests = seating.requests.get(place.node, []) if place else []
    return any(isinstance(request, SeatRequest) and request.owner.person == person for request in requests)


def _why_ended(table: _Table, seat: RunningSeat) -> str:
    if not seat.person:
        return "the lab has a roster now, so this seat is stopped; its home stays"
    if seat.person not in table.rows:
        return "no row of the roster any more: the seat is stopped, its home stays"
    place = table.placements.places.get(seat.person)
    if place is not None and place.stopped:
        return f"stopped by `provision seats stop`: {place.stopped}; its home stays, and its person keeps the place"
    if not table.has_seat(seat.person):
        return f"its last day was {table.rows[seat.person].until}: the seat is stopped, its home stays"
    return "its person has a seat on another node: this one is stopped, its home stays"


def seat_nodes(
    lab: Lab, served: Mapping[str, ServedNode | None], owner: Callable[[NodeFacts], SeatOwner]
) -> tuple[dict[str, list[SeatRequest | Step]], dict[str, dict[str, str]], Pools]:
    """Return requests, ended seats and pools of a lab without a roster: a seat on each node without self-service."""
    nodes = {name: node for name, node in served.items() if node is not None}
    requests: dict[str, list[SeatRequest | Step]] = {
        name: [_node_request(node, owner(node.facts))]
        for name, node in nodes.items()
        if not has_self_service(lab, node.facts)
    }
    ended = {name: _ended_without_roster(lab, node.facts) for name, node in nodes.items()}
    return requests, ended, pools_without_people(lab, served)


def _node_request(node: ServedNode, owner: SeatOwner) -> SeatRequest | Step:
    refusal = node.refusal(owner.environment, "seat.environment in lab.yml")
    if refusal is not None:
        return skipped(node.host.name, (refusal,))
    return SeatRequest(owner, node.environments[owner.environment].gpus)


def _ended_without_roster(lab: Lab, facts: NodeFacts) -> dict[str, str]:
    """Return the running seats that a node of a lab without a roster does not have any more, with the reason."""
    seats = [seat for seat in facts.seats if seat.lab == lab.name and seat.runs and not seat.is_self_service]
    why = "the lab has no roster any more: the seat is stopped, its home stays"
    ended = {seat.name: why for seat in seats if seat.person}
    if has_self_service(lab, facts):
        why = "people start seats on this node themselves now, so this one is stopped; its home stays"
        ended |= {seat.name: why for seat in seats if not seat.person}
    return ended


def stop_step(facts: NodeFacts, name: str, why: str, when_busy: WhenBusy) -> Step:
    """Build the step that stops a seat which no person has any more."""
    seat = facts.seat(name)
    if seat is None:
        return Step(node=facts.name, seat=name, action="stop", why=why)
    step = Step(node=facts.name, seat=name, person=seat.person, action="stop", why=why, generation=seat.generation)
    return with_busy_policy(step.model_copy(update={"gpus": seat.gpus, "shared": seat.shared}), seat, when_busy)


def _limit_memory(node: ServedNode, requests: list[SeatRequest | Step]) -> tuple[Problem, ...]:
    """Refuse all seats of a node whose limits add up to too much. Return a Problem where some are not limited."""
    wanted = [request for request in requests if isinstance(request, SeatRequest)]
    limited = [size_bytes(memory) for r in wanted if (memory := r.owner.limits.memory) not in {"auto", "none"}]
    total = node.facts.engine.capacity.memory if node.facts.engine else None
    if total is not None and sum(limited) > _MEMORY_TIMES * total:
        problem = _too_much_memory(node.host.name, len(limited), sum(limited), total)
        requests[:] = [_without_memory(node.host.name, request, problem) for request in requests]
    elif len(wanted) > 1 and len(limited) < len(wanted):
        return (_memory_not_limited(node.host.name, len(wanted) - len(limited)),)
    return ()


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


def _outside_of_limit(person: Person, held: Placement) -> Problem:
    return Problem(
        "outside_of_limit",
        f"the row of {person.id} no longer allows {held.node}, and --limit leaves out the nodes that it allows",
        "a person is not moved to a node that was not probed; their seat stays as it is",
        "run the command without --limit, or with the other node, too",
        held.node,
    )
