"""Which node and which cards each person of the roster gets. Only a change of their own row moves somebody."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from operator import attrgetter
from typing import NamedTuple

from provisioner.domain.lab.lock import Placement
from provisioner.domain.people import place_problems
from provisioner.domain.people.occupancy import NodeRoom, Occupancy, with_room
from provisioner.domain.people.person import Person
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem


class NodeOffer(Value):
    """A node of the inventory. `gpus`: UUIDs that a seat can use, in NVML's order; None: the node did not answer.

    `environments`: those whose seats can use only some of them, or that have no image there (no card), by name.
    """

    name: str
    gpus: tuple[str, ...] | None
    environments: dict[str, tuple[str, ...]] = {}


class Placements(NamedTuple):
    """By id of a person, in the order of the roster.

    `places`: of everybody who keeps or gets one. `problems`: why somebody has none, or one that their row or their node
    does not fit. `cautions`: what a change of their row has as a consequence.
    """

    places: dict[str, Placement]
    problems: dict[str, Problem]
    cautions: dict[str, Problem]


def place(people: Sequence[Person], nodes: Sequence[NodeOffer], before: Mapping[str, Placement]) -> Placements:
    """Choose the places of all people. `before`: the places that the lock remembers, by id.

    A remembered place stays as long as the row allows its node and asks for as many own cards. Of the nodes with room
    the one with the fewest people per card is chosen. Own cards are given before others share what is left, first to
    people who have a place; otherwise the order of the roster counts.
    """
    search = _Search(people, nodes, before)
    search.place_waiting()
    places = {person.id: _with_uid(person, search.places[person.id]) for person in people if person.id in search.places}
    problems = {person.id: problem for person in people if (problem := search.problem(person)) is not None}
    moved = (person for person in people if person.id in before and places[person.id].node != before[person.id].node)
    cautions = {person.id: place_problems.moves_node(person, before[person.id], places[person.id]) for person in moved}
    return Placements(places, problems, cautions)


def move(
    people: Sequence[Person], nodes: Sequence[NodeOffer], before: Mapping[str, Placement], person: Person, node: str
) -> Placements | Problem:
    """Give a person a place on this one of the nodes, with free cards, or return why they cannot have it.

    Everybody else keeps the place in `before`, and so does who is no longer in the roster: their seat may still run. A
    place on the node that the person has already stays as it is.
    """
    held = before.get(person.id)
    if held is not None and held.node == node:
        return Placements(dict(before), {}, {})
    if held is not None and _is_another(person, held):
        return place_problems.identity_changed(person, held)
    if not is_allowed(person, node):
        return place_problems.row_names_another(person, node)
    room = _room_beside(people, nodes, before, person)[node]
    if room.gpus is None:
        return place_problems.not_placed_yet(person, held, [node])
    if not any(with_room([room], person)):
        return place_problems.no_room_there(person, held, room)
    moved = (held or Placement(node=node)).model_copy(
        update={"node": node, "gpus": room.free_for(person)[: _own_cards(person)]}
    )
    cautions = {person.id: place_problems.is_moved(person, held, moved)} if held else {}
    return Placements({**before, person.id: _with_uid(person, moved)}, {}, cautions)


def _room_beside(
    people: Sequence[Person], nodes: Sequence[NodeOffer], before: Mapping[str, Placement], person: Person
) -> dict[str, NodeRoom]:
    """Return the room of each node beside everybody but this person."""
    occupancy = Occupancy(NodeRoom(node.name, node.gpus, node.environments) for node in nodes)
    rows = {row.id: row for row in people}
    for name, held in before.items():
        if name != person.id:
            occupancy.restore(rows.get(name, Person(id=name)), held)
    return occupancy.nodes


def stop(before: Mapping[str, Placement], person: Person, reason: str) -> Placements | Problem:
    """Return the places with a person's seat stopped for this reason, or no longer stopped where it is empty."""
    held = before.get(person.id)
    if held is None:
        return place_problems.no_place(person)
    return Placements({**before, person.id: held.model_copy(update={"stopped": reason})}, {}, {})


def shared_gpus(offer: NodeOffer, places: Mapping[str, Placement]) -> tuple[str, ...]:
    """Return the cards of a node for those who share: the ones that no person has alone; none if it did not answer."""
    own = {card for place in places.values() for card in place.gpus}
    return tuple(card for card in offer.gpus or () if card not in own)


def is_allowed(person: Person, node: str) -> bool:
    """Whether the column node of a row is empty, the name of this node, or a pattern that it matches."""
    return person.node in {"", node} or fnmatchcase(node, person.node)


class _Search:
    """Places while they are chosen, beginning with those that are remembered."""

    def __init__(self, people: Sequence[Person], nodes: Sequence[NodeOffer], before: Mapping[str, Placement]) -> None:
        self._people = people
        self._occupancy = Occupancy(NodeRoom(node.name, node.gpus, node.environments) for node in nodes)
        self._nodes = self._occupancy.nodes
        self._allowed: dict[str, list[NodeRoom]] = {}
        self.places = self._occupancy.places
        for person in people:
            if person.id in before:
                self._occupancy.restore(person, before[person.id])
        for person in people:
            if person.id in self.places:
                self._free_cards(person, self.places[person.id])

    def _free_cards(self, person: Person, held: Placement) -> None:
        """Take the cards that the row no longer asks for; those that the node no longer offers go first."""
        wanted = _own_cards(person)
        if not self._stays(person) or len(held.gpus) <= wanted:
            return
        node = self._nodes.get(held.node)
        gone = set[str]() if node is None or node.gpus is None else {*held.gpus}.difference(node.gpus)
        kept = sorted(held.gpus, key=gone.__contains__)[:wanted]
        self._occupancy.seat(person, held.model_copy(update={"gpus": tuple(kept)}))

    def place_waiting(self) -> None:
        """Place everybody who waits for a place or for more cards, until no other person can be placed.

        Who can stay on their node comes first. What is freed on the way is tried again from the beginning, so that
        placing once more changes nothing.
        """
        waiting = [person for person in self._people if self._is_waiting(person)]
        own = [person for person in waiting if _own_cards(person)]
        growing = [person for person in own if self._stays(person)]
        moving = [person for person in own if person.id in self.places and not self._stays(person)]
        new = [person for person in own if person.id not in self.places]
        others = [person for person in waiting if not _own_cards(person)]
        steps = (
            (growing, self._grow),
            (moving, self._move),
            (growing, self._grow_or_move),
            (new, self._move),
            (others, self._move),
        )
        again = True
        while again:
            again = any(self._frees(group, attempt) for group, attempt in steps)

    def _frees(self, group: list[Person], attempt: Callable[[Person], bool]) -> bool:
        """Try to place each of the group, which keeps those without success. Return whether that has freed a place."""
        freed = self._occupancy.freed
        group[:] = [person for person in group if not attempt(person)]
        return self._occupancy.freed > freed

    def _grow(self, person: Person) -> bool:
        """Add free cards of the same node. Return whether there are enough."""
        held = self.places[person.id]
        node, missing = self._nodes.get(held.node), _own_cards(person) - len(held.gpus)
        if node is None or node.gpus is None or node.spare_for(person) < missing:
            return False
        self._occupancy.seat(person, held.model_copy(update={"gpus": held.gpus + node.free_for(person)[:missing]}))
        return True

    def _grow_or_move(self, person: Person) -> bool:
        node = self._nodes.get(self.places[person.id].node)
        is_silent = node is not None and node.gpus is None
        return not is_silent and (self._grow(person) or self._move(person))

    def _move(self, person: Person) -> bool:
        """Give the person a place on another node, or their first one. Return whether a node has room."""
        node = min(with_room(self._allowed_nodes(person), person), key=attrgetter("load"), default=None)
        if node is None:
            return False
        held = self.places.get(person.id, Placement(node=node.name))
        gpus = node.free_for(person)[: _own_cards(person)]
        self._occupancy.seat(person, held.model_copy(update={"node": node.name, "gpus": gpus}))
        return True

    def _allowed_nodes(self, person: Person) -> list[NodeRoom]:
        if person.node not in self._allowed:
            self._allowed[person.node] = [node for node in self._nodes.values() if is_allowed(person, node.name)]
        return self._allowed[person.node]

    def _stays(self, person: Person) -> bool:
        """Whether the row lets the person stay on their node, and their identity is unchanged."""
        held = self.places.get(person.id)
        return held is not None and is_allowed(person, held.node) and not _is_another(person, held)

    def _is_waiting(self, person: Person) -> bool:
        held = self.places.get(person.id)
        if held is None:
            return True
        return not _is_another(person, held) and not (self._stays(person) and len(held.gpus) == _own_cards(person))

    def problem(self, person: Person) -> Problem | None:
        """Return why the person has no place, or one that cannot be used as it is; None where all is well."""
        held = self.places.get(person.id)
        if held is not None and _is_another(person, held):
            return place_problems.identity_changed(person, held)
        if held is None or self._is_waiting(person):
            return self._why_waiting(person, held)
        return self._fault(person, held)

    def _why_waiting(self, person: Person, held: Placement | None) -> Problem:
        allowed = self._allowed_nodes(person)
        if not allowed:
            return place_problems.no_such_node(person, tuple(self._nodes))
        silent = [node.name for node in allowed if node.gpus is None]
        if held is not None and held.node in silent:
            silent = [held.node]
        if silent:
            return place_problems.not_placed_yet(person, held, silent)
        if not any(node.has_environment(person.environment) for node in allowed):
            return place_problems.no_environment(person, held, allowed)
        if person.gpus == "shared":
            return place_problems.no_shared_gpu(person, allowed)
        return place_problems.no_free_gpu(person, held, allowed)

    def _fault(self, person: Person, held: Placement) -> Problem | None:
        node = self._nodes.get(held.node)
        if node is None:
            return place_problems.node_gone(person, held)
        if node.gpus is None:
            return None
        if gone := [card for card in held.gpus if card not in node.gpus]:
            return place_problems.gpu_gone(person, held, gone)
        return (
            place_problems.no_shared_gpu(person, [node])
            if person.gpus == "shared" and not node.free_for(person)
            else None
        )


def _own_cards(person: Person) -> int:
    return 0 if person.gpus == "shared" else person.gpus


def _is_another(person: Person, held: Placement) -> bool:
    """Whether the row gives another uid than that of the person's account."""
    return None not in {person.uid, held.uid} and person.uid != held.uid


def _with_uid(person: Person, held: Placement) -> Placement:
    is_known = person.uid is None or held.uid is not None
    return held if is_known else held.model_copy(update={"uid": person.uid})
