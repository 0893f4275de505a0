"""A roster and its nodes change again and again; each time everybody is placed as the lock remembers them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from hypothesis import given, note
from hypothesis import strategies as st

from provisioner.domain.lab.lock import Placement
from provisioner.domain.people.person import Person
from provisioner.domain.people.placement import NodeOffer, Placements, is_allowed, move, place, shared_gpus

CARDS = {"n1": "ab", "n2": "cdef", "n3": "gh", "m1": "", "m2": "ij"}
IDS, NODES = st.sampled_from("abcdefghijklmno"), st.sampled_from(list(CARDS))
PATTERNS = st.sampled_from(["", "", "", "n*", "m*", "n1", "n2", "m1", "x*"])
ENVIRONMENTS = st.sampled_from(["default", "default", "nlp"])
GPUS = st.sampled_from([0, 0, 1, 1, 2, 3, "shared", "shared"])
KINDS = st.sampled_from(
    ["gpus", "gpus", "gpus", "node", "uid", "environment", "remove", "silent", "silent", "fault", "gone", "first"]
)
WAITING = {"no_free_gpu", "no_shared_gpu", "no_such_node", "not_placed_yet", "environment_unserved"}
# The cards that the environment nlp can use, of nodes where it cannot use all of them.
OF_NLP = {"n2": "de", "n3": "", "m1": ""}


class Edit(NamedTuple):
    """A change of one row, which is added first where it is missing, or of one node."""

    kind: str
    person: str
    node: str
    gpus: int | Literal["shared"]
    pattern: str
    uid: int
    environment: str


EDITS = st.builds(Edit, KINDS, IDS, NODES, GPUS, PATTERNS, st.sampled_from([70001, 70001, 70002]), ENVIRONMENTS)


class World:
    def __init__(self) -> None:
        self.rows: dict[str, Person] = {}
        self.silent, self.faulty, self.gone = set[str](), set[str](), set[str]()

    def edit(self, edit: Edit) -> str | None:
        """Make the change; of a node it is taken back the next time. Return whose row was changed."""
        if edit.kind in {"silent", "fault", "gone"}:
            group = {"silent": self.silent, "fault": self.faulty, "gone": self.gone}[edit.kind]
            group ^= {edit.node}
            return None
        new = Person(id=edit.person, gpus=edit.gpus, node=edit.pattern, environment=edit.environment)
        row = self.rows.get(edit.person, new)
        if edit.kind == "remove":
            self.rows.pop(edit.person, None)
        elif edit.kind == "first":
            self.rows = {edit.person: row} | self.rows
        else:
            change = {**edit._asdict(), "node": edit.pattern}[edit.kind]
            self.rows[edit.person] = row.model_copy(update={edit.kind: change})
        return edit.person

    def offers(self) -> list[NodeOffer]:
        return [
            NodeOffer(name=name, gpus=self.cards(name), environments=self.limits(name))
            for name in CARDS
            if name not in self.gone
        ]

    def limits(self, name: str) -> dict[str, tuple[str, ...]]:
        return {"nlp": tuple(OF_NLP[name])} if name in OF_NLP and name not in self.silent else {}

    def cards(self, name: str) -> tuple[str, ...] | None:
        """The first card of a node may have a fault."""
        return None if name in self.silent else tuple(CARDS[name][name in self.faulty :])


def usable(offer: NodeOffer, row: Person) -> set[str]:
    """Return the cards of a node that the environment of a row can use; every one of a node that did not answer."""
    return set(offer.environments.get(row.environment, offer.gpus or ()))


def has_environment(offer: NodeOffer, row: Person) -> bool:
    return row.environment not in offer.environments or bool(offer.environments[row.environment])


def own(row: Person) -> int:
    return 0 if row.gpus == "shared" else row.gpus


def assert_nobody_has_the_card_of_another(found: Placements) -> None:
    counted = Counter(card for at in found.places.values() for card in at.gpus)
    assert not counted or max(counted.values()) == 1


def assert_each_place_fits_its_row_or_has_a_problem(rows: Sequence[Person], found: Placements) -> None:
    assert list(found.places) == [row.id for row in rows if row.id in found.places]
    for row in rows:
        at, problem = found.places.get(row.id), found.problems.get(row.id)
        fits = at is not None and is_allowed(row, at.node) and len(at.gpus) == own(row) and row.uid in {None, at.uid}
        assert fits or problem is not None


def assert_problems_are_true(rows: Sequence[Person], nodes: Mapping[str, NodeOffer], found: Placements) -> None:
    """Whoever has none can use the place; whoever waits has no node with room, as far as nodes answered."""
    sharing = {found.places[row.id].node for row in rows if row.gpus == "shared" and row.id in found.places}
    left = {name: {*shared_gpus(offer, found.places)} for name, offer in nodes.items()}
    for row in rows:
        free = {name: len(left[name] & usable(offer, row)) for name, offer in nodes.items()}
        at, code = found.places.get(row.id), getattr(found.problems.get(row.id), "code", None)
        answered = [nodes[name] for name in nodes if is_allowed(row, name) and nodes[name].gpus is not None]
        if code is None:
            assert at is not None
            assert set(at.gpus) <= set(nodes[at.node].gpus or at.gpus)
            assert row.gpus != "shared" or nodes[at.node].gpus is None or free[at.node]
        elif code == "environment_unserved":
            assert not any(has_environment(offer, row) for offer in answered)
        elif code in {"no_free_gpu", "no_such_node"}:
            spare = {name: min(free[name], len(left[name]) - (name in sharing)) for name in nodes}
            assert all(not has_environment(offer, row) or spare[offer.name] < own(row) for offer in answered)
        elif code == "no_shared_gpu":
            may_be_on = {at.node} if at is not None and is_allowed(row, at.node) else set(nodes)
            assert not any(free[offer.name] for offer in answered if offer.name in may_be_on)
        elif code == "not_placed_yet":
            assert any(is_allowed(row, name) and nodes[name].gpus is None for name in nodes)


def assert_only_who_was_edited_or_waited_has_changed(
    edited: str | None, before: Placements, found: Placements, nodes: Mapping[str, NodeOffer]
) -> None:
    waiting = {person for person, problem in before.problems.items() if problem.code in WAITING}
    for person, held in before.places.items():
        at = found.places.get(person)
        if at is None:
            assert person == edited
        elif person not in {edited, *waiting}:
            assert at == held
        elif at.node == held.node:
            offered = nodes[at.node].gpus if at.node in nodes else None
            kept = [card for card in held.gpus if offered is None or card in offered] or list(held.gpus)
            assert at.gpus == held.gpus or at.gpus[: len(held.gpus)] == held.gpus or [*at.gpus] == kept[: len(at.gpus)]
        assert (at is not None and at.node != held.node) == (person in found.cautions)


def shuffled(places: dict[str, Placement]) -> dict[str, Placement]:
    return dict(sorted(places.items(), key=lambda item: item[0], reverse=True))


@given(st.lists(EDITS, min_size=20, max_size=60))
def test_after_every_change_only_those_move_whose_row_demands_it(edits: list[Edit]) -> None:
    world, before = World(), Placements({}, {}, {})
    for edit in edits:
        note(str(edit))
        edited = world.edit(edit)
        rows, offers = list(world.rows.values()), world.offers()
        nodes = {offer.name: offer for offer in offers}
        found = place(rows, offers, before.places)
        note(str(found.places))
        assert_nobody_has_the_card_of_another(found)
        assert_each_place_fits_its_row_or_has_a_problem(rows, found)
        assert_problems_are_true(rows, nodes, found)
        assert_only_who_was_edited_or_waited_has_changed(edited, before, found, nodes)
        assert place(rows, offers, shuffled(before.places)) == found
        assert place(rows, offers, found.places) == (found.places, found.problems, {})
        before = found


@given(
    st.lists(EDITS, min_size=10, max_size=40), st.dictionaries(IDS, st.tuples(NODES, st.text("abcdefij", max_size=3)))
)
def test_any_lock_and_any_roster_give_places_that_are_placed_again_unchanged(
    edits: list[Edit], remembered: dict[str, tuple[str, str]]
) -> None:
    """Many rows change at once, and the lock may be one that was merged by hand."""
    world = World()
    for edit in edits:
        world.edit(edit)
    rows, offers = list(world.rows.values()), world.offers()
    before = {person: Placement(node=node, gpus=tuple(cards)) for person, (node, cards) in remembered.items()}
    found = place(rows, offers, before)
    assert_nobody_has_the_card_of_another(found)
    assert_each_place_fits_its_row_or_has_a_problem(rows, found)
    assert_problems_are_true(rows, {offer.name: offer for offer in offers}, found)
    assert place(rows, offers, shuffled(before)) == found
    assert place(rows, offers, found.places) == (found.places, found.problems, {})


@given(st.lists(EDITS, min_size=10, max_size=40), IDS, NODES)
def test_a_move_takes_no_card_of_another_and_the_next_rollout_keeps_it(
    edits: list[Edit], person: str, node: str
) -> None:
    world = World()
    for edit in edits:
        world.edit(edit)
    world.rows.setdefault(person, Person(id=person, gpus=1))
    world.gone.clear()
    rows, offers = list(world.rows.values()), world.offers()
    before = place(rows, offers, {}).places
    found = move(rows, offers, before, world.rows[person], node)
    if not isinstance(found, Placements):
        return
    assert_nobody_has_the_card_of_another(found)
    assert {id_: at for id_, at in found.places.items() if id_ != person} == {
        id_: at for id_, at in before.items() if id_ != person
    }
    again = place(rows, offers, found.places)
    assert (found.places[person].node, again.places[person]) == (node, found.places[person])
