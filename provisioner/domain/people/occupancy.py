"""Who sits on which node, and whose each card is, while places are chosen."""

from collections.abc import Iterable, Iterator, Mapping

from provisioner.domain.lab.lock import Placement
from provisioner.domain.people.person import Person


class NodeRoom:
    """The room on a node. `gpus`: UUIDs that a seat can use; None: the node did not answer.

    `free`: those that no person has alone, in the same order. `people` have a place here; `sharing` of them share
    cards. `spare`: how many own cards can be given: where people share cards, one stays for them. `load`: the people
    per card, for comparison: a node without cards comes after all that have some. `environments`: the cards of those
    that cannot use all of them.
    """

    def __init__(
        self, name: str, gpus: tuple[str, ...] | None, environments: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        """Begin with a node without people."""
        self.name, self.gpus = name, gpus
        self._environments = environments or {}
        self.people = self.sharing = 0
        self.set_free(gpus or ())
        self.count(0, 0)

    def set_free(self, free: tuple[str, ...]) -> None:
        """Set the cards that no person has alone."""
        self.free = free
        self._set_spare()

    def count(self, people: int, sharing: int) -> None:
        """Add to the people who have a place here, and to those of them who share cards."""
        self.people += people
        self.sharing += sharing
        cards = len(self.gpus or ())
        self.load = (not cards, self.people / (cards or 1))
        self._set_spare()

    def has_environment(self, name: str) -> bool:
        """Whether an environment has an image on the node, as far as is known."""
        return name not in self._environments or bool(self._environments[name])

    def free_for(self, person: Person) -> tuple[str, ...]:
        """Return those of the free cards that the environment of a person can use."""
        usable = self._environments.get(person.environment)
        return self.free if usable is None else tuple(card for card in self.free if card in usable)

    def spare_for(self, person: Person) -> int:
        """Return how many own cards the node can give to a person."""
        return min(self.spare, len(self.free_for(person)))

    def _set_spare(self) -> None:
        self.spare = max(0, len(self.free) - bool(self.sharing))


def with_room(nodes: Iterable[NodeRoom], person: Person) -> Iterator[NodeRoom]:
    """Return those of the nodes that answered and have what the person asks for."""
    having = (node for node in nodes if node.has_environment(person.environment))
    if person.gpus == "shared":
        return (node for node in having if node.free_for(person))
    return (node for node in having if node.spare_for(person) >= person.gpus and node.gpus is not None)


class Occupancy:
    """The places of people and the room that is left. A card never has two owners, whatever nodes report.

    `freed` counts the changes after which a person who had no room may have some.
    """

    def __init__(self, nodes: Iterable[NodeRoom]) -> None:
        """Begin with nodes without people."""
        self.nodes = {node.name: node for node in nodes}
        self.places: dict[str, Placement] = {}
        self.freed = 0
        self._owners: dict[str, str] = {}
        self._offering: dict[str, list[NodeRoom]] = {}
        for node in self.nodes.values():
            for card in node.gpus or ():
                self._offering.setdefault(card, []).append(node)

    def restore(self, person: Person, place: Placement) -> None:
        """Give a person their remembered place, without cards that somebody before them has: locks can be edited."""
        cards = tuple(card for card in dict.fromkeys(place.gpus) if card not in self._owners)
        self.seat(person, place if cards == place.gpus else place.model_copy(update={"gpus": cards}))

    def seat(self, person: Person, place: Placement) -> None:
        """Give a person this place instead of the one that they have."""
        left = self.places.get(person.id)
        if left is not None:
            self._leave(person, left, place)
        self.places[person.id] = place
        self._owners |= dict.fromkeys(place.gpus, person.id)
        self._count(person, place.node, 1)
        self._update({*place.gpus, *(left.gpus if left else ())})

    def _leave(self, person: Person, left: Placement, place: Placement) -> None:
        for card in left.gpus:
            del self._owners[card]
        self._count(person, left.node, -1)
        stops_sharing = person.gpus == "shared" and left.node != place.node
        self.freed += stops_sharing or not set(left.gpus) <= set(place.gpus)

    def _count(self, person: Person, name: str, change: int) -> None:
        if (node := self.nodes.get(name)) is not None:
            node.count(change, change * (person.gpus == "shared"))

    def _update(self, cards: Iterable[str]) -> None:
        for name in {node.name for card in cards for node in self._offering.get(card, ())}:
            node = self.nodes[name]
            node.set_free(tuple(card for card in node.gpus or () if card not in self._owners))
