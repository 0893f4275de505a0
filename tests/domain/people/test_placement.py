"""Places in tables: a person is `id: gpus` or `id: (gpus, node)`, a node is `name: cards`; None does not answer."""

import time
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from provisioner.domain.lab.lock import Placement
from provisioner.domain.people.person import Person
from provisioner.domain.people.placement import NodeOffer, Placements, move, place, shared_gpus
from provisioner.domain.values.problem import Problem

Gpus = int | Literal["shared"]
Row = Gpus | tuple[Gpus, str]
Nodes = Mapping[str, str | None]


def roster(rows: Mapping[str, Row], **over: Any) -> list[Person]:
    given = {person: row if isinstance(row, tuple) else (row, "") for person, row in rows.items()}
    return [
        Person(id=person, gpus=gpus, node=node, row=number, **over)
        for number, (person, (gpus, node)) in enumerate(given.items(), 2)
    ]


def offers(nodes: Nodes) -> list[NodeOffer]:
    return [NodeOffer(name=name, gpus=None if cards is None else tuple(cards.split())) for name, cards in nodes.items()]


def places(text: Mapping[str, str]) -> dict[str, Placement]:
    """Read `node card card` of each person."""
    found = {person: words.split() for person, words in text.items()}
    return {person: Placement(node=node, gpus=tuple(cards)) for person, (node, *cards) in found.items()}


def shown(found: Placements) -> dict[str, str]:
    return {person: " ".join((at.node, *at.gpus)) for person, at in found.places.items()}


def codes(found: Mapping[str, Any]) -> dict[str, str]:
    return {person: problem.code for person, problem in found.items()}


def placed(rows: Mapping[str, Row], nodes: Nodes, before: Mapping[str, str] | None = None) -> Placements:
    """Place, and check that placing again changes nothing."""
    found = place(roster(rows), offers(nodes), places(before or {}))
    again = place(roster(rows), offers(nodes), found.places)
    assert (again.places, again.problems, again.cautions) == (found.places, found.problems, {})
    return found


TWO: Nodes = {"n1": "a b", "n2": "c d e f"}


@pytest.mark.parametrize(
    ("rows", "nodes", "expected"),
    [
        ({"ann": 1, "ben": 2, "cem": 1}, TWO, {"ann": "n1 a", "ben": "n2 c d", "cem": "n2 e"}),
        ({"ann": 3, "ben": 2, "cem": 1}, TWO, {"ann": "n2 c d e", "ben": "n1 a b", "cem": "n2 f"}),
        ({"ann": 0, "ben": 0, "cem": 0}, TWO, {"ann": "n1", "ben": "n2", "cem": "n2"}),
        ({"ann": "shared", "ben": 2, "cem": 4}, TWO, {"ben": "n1 a b", "cem": "n2 c d e f"}),
        ({"ann": "shared", "ben": 2, "cem": 3}, TWO, {"ann": "n2", "ben": "n1 a b", "cem": "n2 c d e"}),
        ({"ann": 0, "ben": 1}, {"n1": "a"}, {"ann": "n1", "ben": "n1 a"}),
        ({"ann": (1, "n2"), "ben": (1, "gpu*")}, {"n1": "a", "n2": "b", "gpu1": "c"}, {"ann": "n2 b", "ben": "gpu1 c"}),
        ({"ann": (0, "n[2]")}, {"n[2]": "b"}, {"ann": "n[2]"}),
        ({"ann": 0, "ben": 0, "cem": 0}, {"login": "", "cpu": ""}, {"ann": "login", "ben": "cpu", "cem": "login"}),
        ({"ann": 0}, {"login": "", "n1": "a"}, {"ann": "n1"}),
        ({"ann": 1}, {"away": None, "n1": "a"}, {"ann": "n1 a"}),
    ],
)
def test_new_people_are_spread_and_own_cards_come_first(
    rows: Mapping[str, Row], nodes: Nodes, expected: dict[str, str]
) -> None:
    assert shown(placed(rows, nodes)) == expected


@pytest.mark.parametrize(
    ("rows", "nodes", "code", "said"),
    [
        ({"ann": (0, "gpu1O")}, {"gpu10": "a", "gpu20": "b"}, "no_such_node", 'matches "gpu1O"; did you mean "gpu10"?'),
        ({"ann": (0, "*x")}, TWO, "no_such_node", 'row 2 of the roster: no node of the inventory matches "*x"'),
        ({"ann": 0}, {}, "no_such_node", "no node of the inventory"),
        ({"ann": 0}, {"n1": None}, "not_placed_yet", "ann (row 2) asks for a place; n1 may have room, but did not"),
        ({"ann": (1, "n*")}, {"n1": None, "x": "a"}, "not_placed_yet", "asks for 1 own card"),
        ({"ann": 2}, dict.fromkeys("pqrst"), "not_placed_yet", "p, q, r and 2 more may have room"),
        ({"ann": "shared"}, {"n1": "", "n2": None}, "not_placed_yet", "asks for cards to share"),
        ({"ann": 5}, TWO, "no_free_gpu", "asks for 5 own cards; the most that are free on a node are 4, on n2"),
        ({"ann": "shared"}, {"n1": "", "n2": ""}, "no_shared_gpu", "none is left on n1, n2"),
    ],
)
def test_a_person_without_a_place_has_a_problem(rows: Mapping[str, Row], nodes: Nodes, code: str, said: str) -> None:
    found = placed(rows, nodes)
    assert (shown(found), codes(found.problems)) == ({}, {"ann": code})
    assert said in found.problems["ann"].what


@pytest.mark.parametrize(
    ("rows", "nodes", "before", "expected", "problems"),
    [
        # Their nodes are the worst choice by now.
        ({"ann": 1, "ben": 0}, TWO, {"ann": "n2 e", "ben": "n2"}, {"ann": "n2 e", "ben": "n2"}, {}),
        # Rows are removed and added.
        ({"ben": 1, "cem": 1}, {"n1": "a b"}, {"ann": "n1 a", "ben": "n1 b"}, {"ben": "n1 b", "cem": "n1 a"}, {}),
        ({"new": 1, "ann": 1}, {"n1": "a"}, {"ann": "n1 a"}, {"ann": "n1 a"}, {"new": "no_free_gpu"}),
        # The node does not answer, is gone, or no longer has the card.
        ({"ann": 1, "ben": 1}, {"n1": None}, {"ann": "n1 a"}, {"ann": "n1 a"}, {"ben": "not_placed_yet"}),
        ({"ann": 1}, {"n2": "b"}, {"ann": "n1 a"}, {"ann": "n1 a"}, {"ann": "node_gone"}),
        ({"ann": (1, "n1")}, {"n2": "b"}, {"ann": "n1 a"}, {"ann": "n1 a"}, {"ann": "node_gone"}),
        ({"ann": 2}, {"n1": "b c"}, {"ann": "n1 a b"}, {"ann": "n1 a b"}, {"ann": "gpu_gone"}),
        # A card that somebody has on a silent node is theirs wherever it appears.
        ({"ann": 1, "ben": 1}, {"n1": None, "n2": "a"}, {"ann": "n1 a"}, {"ann": "n1 a"}, {"ben": "not_placed_yet"}),
        # Fewer cards: the first are kept, but not one that the node no longer has.
        ({"ann": 1}, {"n1": "a b c"}, {"ann": "n1 c a b"}, {"ann": "n1 c"}, {}),
        ({"ann": 1}, {"n1": "b c"}, {"ann": "n1 a b"}, {"ann": "n1 b"}, {}),
        ({"ann": 1}, {"n1": None}, {"ann": "n1 b a"}, {"ann": "n1 b"}, {}),
        ({"ann": "shared"}, {"n1": "a", "n2": "b"}, {"ann": "n1 a"}, {"ann": "n1"}, {}),
        ({"ann": 0}, {"n1": "a", "n2": "b"}, {"ann": "n1"}, {"ann": "n1"}, {}),
        # More cards: free ones of the node are added.
        ({"ann": 3}, {"n1": "a b c d"}, {"ann": "n1 c"}, {"ann": "n1 c a b"}, {}),
        ({"ann": 1, "ben": "shared"}, {"n1": "a b"}, {"ann": "n1", "ben": "n1"}, {"ann": "n1 a", "ben": "n1"}, {}),
        ({"ann": 2}, {"n1": None, "n2": "b c"}, {"ann": "n1 a"}, {"ann": "n1 a"}, {"ann": "not_placed_yet"}),
        ({"ann": (2, "n1")}, {"n1": "a", "n2": "b c"}, {"ann": "n1 a"}, {"ann": "n1 a"}, {"ann": "no_free_gpu"}),
        # One card stays where people share them.
        (
            {"ann": "shared", "ben": (1, "n1")},
            {"n1": "a", "n2": "b"},
            {"ann": "n1"},
            {"ann": "n1"},
            {"ben": "no_free_gpu"},
        ),
        ({"ann": "shared"}, {"n1": "", "n2": "b"}, {"ann": "n1"}, {"ann": "n1"}, {"ann": "no_shared_gpu"}),
        # A lock that was edited by hand names a card twice.
        ({"ann": 1, "ben": 1}, {"n1": "a b"}, {"ann": "n1 a", "ben": "n1 a"}, {"ann": "n1 a", "ben": "n1 b"}, {}),
        ({"ann": 2}, {"n1": "a b"}, {"ann": "n1 a a"}, {"ann": "n1 a b"}, {}),
    ],
)
def test_a_place_stays_as_it_is_unless_the_row_changes(
    rows: Mapping[str, Row],
    nodes: Nodes,
    before: Mapping[str, str],
    expected: dict[str, str],
    problems: dict[str, str],
) -> None:
    found = placed(rows, nodes, before)
    assert shown(found) == expected
    assert codes(found.problems) == problems
    assert found.cautions == {}


@pytest.mark.parametrize(
    ("row", "nodes", "expected"),
    [
        ((1, "n2"), {"n1": "a", "n2": "b"}, "n2 b"),
        ((1, "n2"), {"n1": None, "n2": "b"}, "n2 b"),
        ((1, "n2"), {"n2": "b"}, "n2 b"),
        ((0, "x*"), {"n1": "a", "x": "b"}, "x"),
        (("shared", "n2"), {"n1": "a", "n2": "b"}, "n2"),
        (2, {"n1": "a", "n2": "b c"}, "n2 b c"),
        (2, {"n2": "b c"}, "n2 b c"),
    ],
)
def test_a_row_that_no_longer_fits_the_node_moves_the_person_with_a_caution(
    row: Row, nodes: Nodes, expected: str
) -> None:
    found = placed({"ann": row}, nodes, {"ann": "n1 a"})
    assert (shown(found), found.problems) == ({"ann": expected}, {})
    assert codes(found.cautions) == {"ann": "moves_node"}
    assert "moves from n1 to " in found.cautions["ann"].what


@pytest.mark.parametrize(
    ("row", "nodes", "code"),
    [
        ((1, "n2"), {"n1": "a", "n2": ""}, "no_free_gpu"),
        ((1, "n2"), {"n1": "a", "n2": None}, "not_placed_yet"),
        ((1, "n3"), {"n1": "a", "n2": "b"}, "no_such_node"),
        (("shared", "n2"), {"n1": "a", "n2": ""}, "no_shared_gpu"),
    ],
)
def test_a_person_who_cannot_move_keeps_the_place_and_nobody_else_gets_its_card(
    row: Row, nodes: Nodes, code: str
) -> None:
    found = placed({"ben": (1, "n1"), "ann": row}, nodes, {"ann": "n1 a"})
    assert shown(found) == {"ann": "n1 a"}
    assert codes(found.problems) == {"ben": "no_free_gpu", "ann": code}


def test_what_is_freed_on_the_way_is_given_in_the_same_run() -> None:
    """Each waits for the card of the next; the last one has a node of its own to go to."""
    rows: dict[str, Row] = {"ann": (1, "n2"), "ben": (1, "n3"), "cem": (1, "n4")}
    before = {"ann": "n1 a", "ben": "n2 b", "cem": "n3 c"}
    found = placed(rows, {"n1": "a", "n2": "b", "n3": "c", "n4": "d"}, before)
    assert shown(found) == {"ann": "n2 b", "ben": "n3 c", "cem": "n4 d"}


def test_who_can_stay_gets_cards_before_who_is_new_and_after_who_leaves() -> None:
    rows: dict[str, Row] = {"new": 1, "ann": 2, "ben": (1, "n2")}
    found = placed(rows, {"n1": "a b", "n2": "c d"}, {"ann": "n1 a", "ben": "n1 b"})
    assert shown(found) == {"new": "n2 d", "ann": "n1 a b", "ben": "n2 c"}


def test_who_can_stay_gets_cards_before_who_moves_there() -> None:
    rows: dict[str, Row] = {"ben": (1, "n1"), "ann": 2}
    found = placed(rows, {"n1": "a b", "n2": "c", "n3": "e f"}, {"ann": "n1 a", "ben": "n2 c"})
    assert shown(found) == {"ben": "n2 c", "ann": "n1 a b"}
    assert codes(found.problems) == {"ben": "no_free_gpu"}


def test_who_waits_for_a_card_of_a_silent_node_is_told_of_that_node() -> None:
    found = placed({"ann": 2}, {"n1": None, "n2": None, "n3": "a b"}, {"ann": "n1 x"})
    said = "ann (row 2) asks for 2 own cards; n1 may have room, but did not answer; their place on n1 stays as it is"
    assert (found.problems["ann"].what, found.problems["ann"].node) == (said, "n1")


def test_who_moves_for_more_cards_leaves_theirs_to_the_next_who_wants_more() -> None:
    rows: dict[str, Row] = {"ann": 2, "ben": 2}
    found = placed(rows, {"n1": "a b", "n2": "c d", "n3": "e f"}, {"ann": "n1 a", "ben": "n1 b"})
    assert shown(found) == {"ann": "n2 c d", "ben": "n1 b a"}
    assert codes(found.cautions) == {"ann": "moves_node"}


def test_the_last_who_shares_leaves_a_card_for_others() -> None:
    rows: dict[str, Row] = {"ann": (1, "n1"), "ben": ("shared", "n2")}
    found = placed(rows, {"n1": "a", "n2": "b"}, {"ben": "n1"})
    assert shown(found) == {"ann": "n1 a", "ben": "n2"}


@pytest.mark.parametrize(
    ("row", "held", "expected"), [(None, None, None), (None, 5001, 5001), (70001, None, 70001), (70001, 70001, 70001)]
)
@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_place_keeps_the_uid_or_gets_that_of_the_row(
    row: int | None, held: int | None, expected: int | None, node: str
) -> None:
    before = {"ann": Placement(node="n1", uid=held, gpus=("a",))}
    rows = roster({"ann": (1, node), "new": 0}, uid=row)
    found = place(rows, offers({"n1": "a", "n2": "b"}), before)
    assert (found.places["ann"].node, found.places["ann"].uid, found.problems) == (node, expected, {})
    assert found.places["new"].uid == row


@pytest.mark.parametrize("row", [1, 0, 2, (1, "n2"), (1, "none")])
def test_another_uid_is_a_problem_that_leaves_the_place_as_it_is(row: Row) -> None:
    before = {"ann": Placement(node="n1", uid=70001, gpus=("a",))}
    found = place(roster({"ann": row}, uid=70002), offers({"n1": "a b", "n2": "c d"}), before)
    assert (found.places, codes(found.problems), found.cautions) == (before, {"ann": "identity_changed"}, {})
    assert "70001" in found.problems["ann"].fix


def moved(
    row: Row, nodes: Nodes, before: Mapping[str, str], others: Mapping[str, Row] | None = None
) -> Placements | Problem:
    """Move ann to n2."""
    people = roster({"ann": row, **(others or {})})
    return move(people, offers(nodes), places(before), people[0], "n2")


MOVES: Nodes = {"n1": "a b", "n2": "c d e"}


@pytest.mark.parametrize(
    ("row", "before", "others", "expected"),
    [
        (1, {"ann": "n1 a"}, {}, "n2 c"),
        (0, {"ann": "n1"}, {}, "n2"),
        ("shared", {"ann": "n1", "ben": "n2 c d"}, {"ben": 2}, "n2"),
        # Their own number of cards, also where they have fewer now; what others have is not given.
        (2, {"ann": "n1 a", "ben": "n2 c"}, {"ben": 1}, "n2 d e"),
        (2, {"ann": "n1 a b", "ben": "n2"}, {"ben": "shared"}, "n2 c d"),
        # Whose row is gone may still have a seat that runs, and so may who is to get fewer cards.
        (1, {"ann": "n1 a", "old": "n2 c"}, {}, "n2 d"),
        (1, {"ann": "n1 a", "ben": "n2 c d"}, {"ben": 1}, "n2 e"),
        # Without a place so far.
        (1, {}, {}, "n2 c"),
        ((1, "n*"), {"ann": "n1 a"}, {}, "n2 c"),
        # They are there already.
        (2, {"ann": "n2 c"}, {}, "n2 c"),
        ((1, "n1"), {"ann": "n2 c"}, {}, "n2 c"),
    ],
)
def test_a_move_gives_free_cards_of_that_node_and_changes_nobody_else(
    row: Row, before: Mapping[str, str], others: Mapping[str, Row], expected: str
) -> None:
    found = moved(row, MOVES, before, others)
    assert isinstance(found, Placements)
    assert shown(found) == {**before, "ann": expected}
    is_moved = "ann" in before and before["ann"].split()[0] != "n2"
    assert (found.problems, codes(found.cautions)) == ({}, {"ann": "moves_node"} if is_moved else {})


@pytest.mark.parametrize(
    ("row", "nodes", "others", "code", "said"),
    [
        ((1, "n1"), MOVES, {}, "row_names_another_node", 'row 2 of the roster allows ann only "n1", which n2 is not'),
        ((1, "m*"), MOVES, {}, "row_names_another_node", 'only "m*"'),
        (1, {"n1": "a", "n2": None}, {}, "not_placed_yet", "n2 may have room, but did not answer; their place on n1"),
        (0, {"n1": "a", "n2": None}, {}, "not_placed_yet", "ann (row 2) asks for a place"),
        (2, {"n1": "a", "n2": "c d"}, {"ben": 1}, "no_free_gpu", "the most that are free on a node are 1, on n2"),
        (2, {"n1": "a", "n2": "d e"}, {"ben": "shared"}, "no_free_gpu", "asks for 2 own cards"),
        ("shared", {"n1": "a", "n2": "c"}, {"ben": 1}, "no_shared_gpu", "none is left on n2"),
    ],
)
def test_a_move_that_is_not_possible_has_a_problem(
    row: Row, nodes: Nodes, others: Mapping[str, Row], code: str, said: str
) -> None:
    before = {"ann": "n1 a"} | {person: "n2 c" if gpus == 1 else "n2" for person, gpus in others.items()}
    found = moved(row, nodes, before, others)
    assert isinstance(found, Problem)
    assert (found.code, said in found.what) == (code, True), found


def test_a_move_of_an_account_with_another_uid_is_a_problem() -> None:
    person = Person(id="ann", uid=70002)
    found = move([person], offers(MOVES), {"ann": Placement(node="n1", uid=70001)}, person, "n2")
    assert isinstance(found, Problem)
    assert found.code == "identity_changed"


def test_a_stopped_person_stays_stopped_wherever_they_move() -> None:
    held = Placement(node="n1", uid=70001, gpus=("a",), stopped="exam")
    by_row = place(roster({"ann": (1, "n2")}), offers(MOVES), {"ann": held})
    by_admin = move(roster({"ann": 1}), offers(MOVES), {"ann": held}, Person(id="ann", gpus=1), "n2")
    expected = Placement(node="n2", uid=70001, gpus=("c",), stopped="exam")
    assert isinstance(by_admin, Placements)
    assert (by_row.places, by_admin.places) == ({"ann": expected}, {"ann": expected})


def test_a_problem_tells_what_to_do() -> None:
    rows: dict[str, Row] = {"ann": 2, "ben": (3, "n*"), "cem": 0, "dan": ("shared", "n2")}
    before = {"ann": "n1 a b", "ben": "n1 c", "cem": "old", "dan": "n2"}
    found = placed(rows, {"n1": "b c", "n2": ""}, before)
    ben = "ben (row 3) asks for 3 own cards; the most that are free on a node are 0, on n1"
    said = {
        person: (problem.code, problem.node, problem.what, problem.fix) for person, problem in found.problems.items()
    }
    assert said == {
        "ann": (
            "gpu_gone",
            "n1",
            "n1 no longer offers a of ann (row 2)",
            "repair the card; for another one set gpus to 1 in the row of the roster, roll out, and set it to 2 again",
        ),
        "ben": (
            "no_free_gpu",
            "n1",
            f"{ben}; their place on n1 stays as it is",
            "lower gpus in this row of the roster or in others, or allow another node in the row",
        ),
        "cem": (
            "node_gone",
            "old",
            "the seat of cem (row 4) is on old, which is not in the inventory",
            "add old to the inventory again, or name another node in the row of the roster",
        ),
        "dan": (
            "no_shared_gpu",
            "n2",
            "dan (row 5) asks for cards to share, and none is left on n2",
            "lower gpus in the rows of those who have cards there, or allow another node in the row",
        ),
    }


def test_shared_cards_are_those_that_nobody_has_of_their_own() -> None:
    node, silent = offers({"n1": "a b c", "n2": None})
    own = places({"ann": "n1 b", "ben": "n2 c", "cem": "n1"})
    assert (shared_gpus(node, own), shared_gpus(silent, own)) == (("a",), ())


def test_a_whole_university_is_placed_in_seconds() -> None:
    nodes = [NodeOffer(name=f"gpu{n:03}", gpus=tuple(f"{n}/{card}" for card in range(8))) for n in range(200)]
    rows = roster(
        {
            f"p{n}": (1 if n % 19 == 0 else "shared" if n % 2 else 0, f"gpu{n % 20:02}*" if n % 3 else "")
            for n in range(12_000)
        }
    )
    began = time.process_time()
    found = place(rows, nodes, {})
    again = place([row.model_copy(update={"node": "gpu1*"}) for row in rows], nodes, found.places)
    assert time.process_time() - began < 10
    assert len(found.places) == len(again.places) == 12_000
    assert found.problems == again.problems == {}
