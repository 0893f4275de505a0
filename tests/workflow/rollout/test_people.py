"""Plans with a roster: who gets a seat where, whose seat is stopped, and that nobody else is touched."""

from collections import Counter
from collections.abc import Sequence
from datetime import date, timedelta
from ipaddress import IPv4Network
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import Placement
from provisioner.domain.people.person import Person
from provisioner.domain.rollout.busy import WhenBusy
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.rollout.stale import find_stale_nodes
from provisioner.domain.values.limits import Capacity
from provisioner.domain.values.node import Account, NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from provisioner.workflow.rollout.plan import PreparedPlan
from tests.builders import a_lab
from tests.costly import costly
from tests.domain.seats import KEY
from tests.workflow.rollout.roster_lab import (
    ANN,
    TODAY,
    accounts_of,
    actions,
    after_rollout,
    changed,
    codes,
    nodes,
    person,
    plan_people,
    roster_lab,
    seats_of,
    with_seat,
)

SIX = (
    person("ann", node="n1", gpus=1),
    person("2024012345", node="n1", gpus="shared"),
    person("bob", node="n1", gpus="shared"),
    person("li.lei@example.edu", node="n1"),
    person("eve", node="n*", gpus="shared"),
    person("zoe", node="n2"),
)
CARDS = {"n1": 3, "n2": 1}
OFF = Problem("unreachable", "n1: no answer", "it is off", "switch it on")


class World:
    """A lab whose plans are carried out."""

    def __init__(self, people: Sequence[Person] = SIX, cards: dict[str, int] | None = None) -> None:
        self.people: Sequence[Person] = people
        self.probed: dict[str, NodeFacts | Problem] = dict(nodes(cards or CARDS, accounts_of(people)))
        self.places: dict[str, Placement] = {}

    def plan(self, people: Sequence[Person] | None = None, **how: Any) -> PreparedPlan:
        return plan_people(self.people if people is None else people, self.probed, self.places, **how)

    def roll_out(self, people: Sequence[Person] | None = None, **how: Any) -> PreparedPlan:
        prepared = self.plan(people, **how)
        self.probed = after_rollout(prepared, self.probed)
        self.places = prepared.plan.places
        return prepared

    def change(self, node: str, seat: str, **changes: Any) -> None:
        self.probed[node] = with_seat(self.probed[node], seat, **changes)

    def running(self) -> dict[str, list[RunningSeat]]:
        facts = {name: found for name, found in self.probed.items() if isinstance(found, NodeFacts)}
        return {name: [seat for seat in found.seats if not seat.is_down] for name, found in facts.items()}

    def seat_of(self, name: str) -> RunningSeat:
        (found,) = (seat for seats in self.running().values() for seat in seats if seat.person == name)
        return found


@pytest.fixture
def world() -> World:
    made = World()
    made.roll_out()
    return made


def without(*names: str) -> list[Person]:
    return [one for one in SIX if one.id not in names]


def with_row(name: str, **changes: Any) -> list[Person]:
    return [one.model_copy(update=changes) if one.id == name else one for one in SIX]


def test_six_people_get_seats_on_two_nodes() -> None:
    prepared = World().plan()
    assert set(actions(prepared.plan).values()) == {"create"}
    found = {seat.person: (node, seat.uid, len(seat.gpus), seat.shared) for node, seat in seats_of(prepared)}
    eve = found.pop("eve")
    assert found == {
        "ann": ("n1", ANN, 1, False),
        "2024012345": ("n1", SIX[1].uid, 2, True),
        "bob": ("n1", SIX[2].uid, 2, True),
        "li.lei@example.edu": ("n1", SIX[3].uid, 0, False),
        "zoe": ("n2", SIX[5].uid, 0, False),
    }
    assert eve[2:] == (1, True) if eve[0] == "n2" else (2, True)
    seats = {seat.person: seat for _, seat in seats_of(prepared)}
    assert seats["bob"].gpus == seats["2024012345"].gpus
    assert not set(seats["ann"].gpus) & set(seats["bob"].gpus)
    assert prepared.plan.places["ann"] == Placement(node="n1", uid=ANN, gpus=seats["ann"].gpus)


def assert_nothing_is_given_twice(seats: Sequence[RunningSeat]) -> None:
    """`seats` of one node, also those that are stopped."""
    ports = [port for seat in seats for port in seat.ports.values()]
    assert len(ports) == len(set(ports)) == 2 * len(seats)
    networks = sorted(IPv4Network(seat.subnet) for seat in seats)
    assert not any(one.overlaps(other) for one, other in pairwise(networks))
    running = [seat for seat in seats if not seat.is_down]
    own = Counter(card for seat in running if not seat.shared for card in seat.gpus)
    assert not own or max(own.values()) == 1
    assert not any(card in own for seat in running if seat.shared for card in seat.gpus)


@pytest.mark.parametrize("left", [{}, {"ports": {}}, {"subnet": ""}, {"ports": {"ssh": 22000}, "subnet": ""}])
def test_new_seats_get_no_port_and_no_subnet_of_others(left: dict[str, Any]) -> None:
    """`left`: what a first rollout of zoe has left that was interrupted: its record may have no ports or no subnet."""
    zoe, bob = person("zoe"), person("bob")
    world = World([zoe], {"n1": 1})
    world.roll_out()
    world.change("n1", "demo_zoe", **{"generation": 0, "files": {}, "state": "switching", **left})
    world.people = [zoe, bob, person("cem"), person("dan")]
    world.probed = {name: with_accounts(facts, world.people) for name, facts in world.probed.items()}
    world.roll_out()
    facts = world.probed["n1"]
    assert isinstance(facts, NodeFacts)
    assert_nothing_is_given_twice(facts.seats)


def with_accounts(facts: NodeFacts | Problem, people: Sequence[Person], **over: Account) -> NodeFacts | Problem:
    if isinstance(facts, Problem):
        return facts
    return facts.model_copy(update={"accounts": accounts_of(people) | over})


def test_a_stopped_seat_keeps_its_ports_and_its_subnet(world: World) -> None:
    before = world.seat_of("zoe")
    world.roll_out(without("zoe"))
    newcomers = [*without("zoe"), person("yan", node="n2"), person("xu", node="n2")]
    world.probed["n2"] = with_accounts(world.probed["n2"], [*newcomers, *SIX])
    world.roll_out(newcomers)
    facts = world.probed["n2"]
    assert isinstance(facts, NodeFacts)
    assert_nothing_is_given_twice(facts.seats)
    again = world.roll_out()
    assert actions(again.plan)["zoe"] == "restart"
    assert (world.seat_of("zoe").ports, world.seat_of("zoe").subnet) == (before.ports, before.subnet)


def test_six_people_are_at_rest_after_the_rollout() -> None:
    world = World()
    world.roll_out()
    again = world.plan()
    assert (again.plan.pending, again.plan.places) == ((), world.places)
    compose = {seat.person: seat.files["compose.yaml"] for seats in world.running().values() for seat in seats}
    assert len(set(compose.values())) == len(SIX)
    assert all(yaml.safe_load(text)["services"]["ssh"]["mem_limit"] == "1g" for text in compose.values())


@st.composite
def rosters(draw: st.DrawFn) -> list[Person]:
    gpus = st.sampled_from([0, 0, 1, 1, 2, "shared", "shared"])
    node = st.sampled_from(["", "n*", "n1", "n2", "n9"])
    group = st.sampled_from(["", "staff"])
    names = draw(st.lists(st.sampled_from("abcdefghijklmnop"), unique=True, min_size=1))
    return [person(name, gpus=draw(gpus), node=draw(node), group=draw(group)) for name in names]


@costly
@given(rosters(), rosters())
def test_rest_a_plan_made_right_after_its_rollout_has_no_pending_step(
    first: list[Person], second: list[Person]
) -> None:
    world = World([*first, *second])
    for people in (first, second):
        done = world.roll_out(people)
        again = world.plan(people)
        assert (again.plan.pending, again.plan.places) == ((), done.plan.places)
        assert again.plan.unplaced == done.plan.unplaced
        for seats in world.running().values():
            assert_nothing_is_given_twice(seats)


def test_thirty_people_on_a_node_are_at_rest_after_their_rollout() -> None:
    people = [person(f"p{number:02}", gpus=1 if number < 3 else "shared") for number in range(30)]
    world = World(people, {"n1": 8})
    assert len(world.roll_out().plan.pending) == 30
    assert_nothing_is_given_twice(world.running()["n1"])
    assert world.plan().plan.pending == ()


@pytest.mark.parametrize("leaver", [one.id for one in SIX])
def test_a_removed_row_stops_one_seat_and_touches_nobody_else(world: World, leaver: str) -> None:
    prepared = world.plan(without(leaver))
    (step,) = prepared.plan.pending
    assert (step.action, step.person, step.seat) == ("stop", leaver, world.seat_of(leaver).name)
    assert "no row of the roster any more" in step.why
    assert set(changed(prepared.plan)) == {leaver}
    assert leaver not in prepared.plan.places
    world.roll_out(without(leaver))
    assert world.plan(without(leaver)).plan.pending == ()


def test_a_step_that_stops_a_seat_names_the_cards_that_nobody_gets_before(world: World) -> None:
    stops = {name: world.plan(without(name)).plan.pending[0] for name in ("ann", "bob", "zoe")}
    (shared,) = [seat.gpus for seat in world.running()["n1"] if seat.person == "bob"]
    assert {name: (step.gpus, step.shared) for name, step in stops.items()} == {
        "ann": (world.places["ann"].gpus, False),
        "bob": (shared, True),
        "zoe": ((), False),
    }


def test_who_shares_gets_a_freed_card_with_the_next_generation(world: World) -> None:
    world.roll_out(without("ann"))
    assert len(world.seat_of("bob").gpus) == 2
    bob = world.seat_of("bob")
    world.change("n1", bob.name, files={"seat.json": "of before"})
    world.roll_out(without("ann"))
    assert len(world.seat_of("bob").gpus) == 3
    assert len(world.seat_of("2024012345").gpus) == 2


def test_a_card_that_becomes_somebodys_own_is_taken_from_all_who_share_it(world: World) -> None:
    prepared = world.plan(with_row("li.lei@example.edu", gpus=1))
    assert changed(prepared.plan) == {"li.lei@example.edu": "update", "bob": "update", "2024012345": "update"}
    world.roll_out(with_row("li.lei@example.edu", gpus=1))
    assert_nothing_is_given_twice(world.running()["n1"])


@pytest.mark.parametrize(("days", "action"), [(-1, "stop"), (0, "keep"), (1, "keep")])
def test_a_seat_ends_after_its_last_day(world: World, days: int, action: str) -> None:
    last = TODAY + timedelta(days)
    plan = world.plan(with_row("bob", until=last)).plan
    assert actions(plan) == {one.id: "keep" for one in SIX} | {"bob": action}
    assert plan.places == world.places, "the place waits for another date in the row"
    if action == "stop":
        assert f"its last day was {last}" in plan.pending[0].why


NO_ROSTER = a_lab()


def test_the_seat_of_the_node_is_stopped_when_the_lab_gets_a_roster() -> None:
    world = World()
    world.roll_out((), lab=NO_ROSTER)
    plan = world.plan().plan
    stops = [step for step in plan.pending if step.action == "stop"]
    assert [(step.node, step.seat) for step in stops] == [("n1", "demo-student"), ("n2", "demo-student")]
    assert {step.why for step in stops} == {"the lab has a roster now, so this seat is stopped; its home stays"}
    assert next(step.action for step in plan.steps if step.node == "n2") == "stop"
    assert {one.id for one in SIX} <= set(actions(plan))
    world.roll_out()
    assert world.plan().plan.pending == ()


def test_a_lab_that_loses_its_roster_stops_the_seats_of_people_and_says_so(world: World) -> None:
    prepared = world.roll_out((), lab=NO_ROSTER)
    stops = {step.person: step.why for step in prepared.plan.pending if step.action == "stop"}
    assert set(stops) == {one.id for one in SIX}
    assert set(stops.values()) == {"the lab has no roster any more: the seat is stopped, its home stays"}
    assert [seat.name for seats in world.running().values() for seat in seats] == ["demo-student", "demo-student"]
    assert prepared.plan.places == world.places != {}
    assert world.plan((), lab=NO_ROSTER).plan.pending == ()
    back = world.roll_out()
    assert {step.action for step in back.plan.pending if step.person} == {"restart"}
    assert back.plan.places == prepared.plan.places


def test_a_lab_without_a_roster_leaves_other_seats_of_its_own_alone() -> None:
    """As before rosters: the user of lab.yml was changed, and the seat of the user before still runs."""
    world = World()
    world.roll_out((), lab=NO_ROSTER)
    plan = world.plan((), lab=a_lab(seat={"user": "guest"})).plan
    assert [(step.seat, step.action) for step in plan.steps] == [("demo-guest", "create"), ("demo-guest", "create")]


def without_account(world: World, name: str) -> None:
    facts = world.probed["n1"]
    assert isinstance(facts, NodeFacts)
    accounts = {known: account for known, account in facts.accounts.items() if known != name}
    world.probed["n1"] = facts.model_copy(
        update={"accounts": accounts, "absent_because": {"accounts": "no answer within 5 s"}}
    )


@pytest.mark.parametrize("changes", [{}, {"gpus": 0}, {"group": "staff"}, {"keys": (KEY,)}])
def test_an_account_that_is_not_known_keeps_the_running_seat_as_it_is(world: World, changes: dict[str, Any]) -> None:
    without_account(world, "ann")
    plan = world.plan(with_row("ann", **changes)).plan
    assert changed(plan) == {"ann": "skip"}
    assert codes(plan) == {"ann": ["account_unknown"]}
    assert "no answer within 5 s" in plan.skipped[0].why
    assert plan.places["ann"].node == "n1"


@pytest.mark.parametrize("at_work", [(), ("python of bob",)])
def test_other_keys_of_a_person_restart_nothing_whatever_runs(world: World, at_work: tuple[str, ...]) -> None:
    world.change("n1", world.seat_of("bob").name, at_work=at_work, capacity=Capacity(memory=1 << 30, cpus=1))
    plan = world.roll_out(with_row("bob", keys=(KEY,))).plan
    assert changed(plan) == {"bob": "assign"}
    assert codes(plan) == {}
    assert world.seat_of("bob").files["authorized_keys"] == f"{KEY}\n"
    assert world.plan(with_row("bob", keys=(KEY,))).plan.pending == ()


def test_an_own_gpu_that_becomes_shared_or_own_again_restarts_nothing() -> None:
    alone = [person("zoe", node="n2", gpus=1)]
    own = World(alone, {"n2": 1})
    own.roll_out()
    shared = [person("zoe", node="n2", gpus="shared")]
    assert changed(own.roll_out(shared).plan) == {"zoe": "assign"}
    assert (own.seat_of("zoe").shared, len(own.seat_of("zoe").gpus)) == (True, 1)
    assert changed(own.roll_out(alone).plan) == {"zoe": "assign"}
    assert (own.seat_of("zoe").shared, own.plan(alone).plan.pending) == (False, ())


def test_an_unreachable_node_keeps_its_people_and_nobody_is_stopped_elsewhere(world: World) -> None:
    world.probed["n1"] = OFF
    plan = world.plan().plan
    assert changed(plan) == {"n1": "skip"}
    assert (plan.places, plan.unplaced) == (world.places, {})


def test_a_person_who_moves_gets_a_caution_and_the_old_seat_is_stopped(world: World) -> None:
    plan = world.plan(with_row("bob", node="n2")).plan
    steps = [(step.node, step.action) for step in plan.pending if step.person == "bob"]
    assert sorted(steps) == [("n1", "stop"), ("n2", "create")]
    (stop,) = (step for step in plan.pending if step.action == "stop")
    assert "has a seat on another node" in stop.why
    (create,) = (step for step in plan.pending if step.action == "create")
    assert [problem.code for problem in create.problems] == ["moves_node"]
    world.roll_out(with_row("bob", node="n2"))
    assert world.plan(with_row("bob", node="n2")).plan.pending == ()


def test_who_moves_keeps_the_old_seat_until_the_new_node_knows_them(world: World) -> None:
    world.probed["n2"] = with_accounts(world.probed["n2"], SIX, ann=Account())
    plan = world.plan(with_row("ann", node="n2", gpus=0)).plan
    assert [(step.node, step.action) for step in plan.steps if step.person == "ann"] == [("n2", "skip")]
    assert plan.pending == ()


def test_who_has_moved_to_a_node_that_is_off_keeps_the_old_seat(world: World) -> None:
    moved = with_row("bob", node="n2")
    world.places = world.plan(moved).plan.places
    world.probed["n2"] = OFF
    plan = world.plan(moved).plan
    assert [step.action for step in plan.steps if step.person == "bob"] == []
    assert plan.pending == ()


@pytest.mark.parametrize(
    ("people", "expected", "problem"),
    [
        (SIX, {}, None),
        (without("zoe"), {}, None),
        (without("bob"), {"bob": "stop"}, None),
        (with_row("zoe", gpus=1), {}, None),
        (with_row("zoe", node="n1"), {"zoe": "create"}, "moves_node"),
        (with_row("bob", node="n2"), {"bob": "skip"}, "outside_of_limit"),
        (with_row("bob", node="n2*"), {"bob": "skip"}, "outside_of_limit"),
    ],
)
def test_a_limit_plans_for_the_people_of_its_nodes_only(
    world: World, people: list[Person], expected: dict[str, str], problem: str | None
) -> None:
    plan = world.plan(people, only=("n1",)).plan
    assert changed(plan) == expected
    assert plan.unplaced == {}
    assert [code for found in codes(plan).values() for code in found] == ([problem] if problem else [])
    assert {step.node for step in plan.steps} == {"n1"}


def test_a_limit_places_only_new_people_whose_row_names_one_of_its_nodes() -> None:
    people = [person("any"), person("here", node="n1"), person("there", node="n2"), person("either", node="n*")]
    plan = World(people).plan(only=("n1",)).plan
    assert (actions(plan), plan.unplaced) == ({"here": "create"}, {})


@pytest.mark.parametrize("only", [(), ("n1",)])
def test_without_the_places_of_the_lock_everybody_stays_where_their_seat_runs(
    world: World, only: tuple[str, ...]
) -> None:
    """lab.lock was not in git, or is of another control machine. Roster and nodes are in another order by now."""
    before = {name: place for name, place in world.places.items() if not only or place.node in only}
    world.places = {}
    world.people = tuple(reversed(SIX))
    plan = world.plan(only=only).plan
    assert changed(plan) == {}
    assert plan.places == before


def test_people_without_a_place_are_named_with_the_reason() -> None:
    people = [person("ben", gpus=9), person("cem", node="n7"), person("dan")]
    plan = World(people).plan().plan
    assert {name: problem.code for name, problem in plan.unplaced.items()} == {
        "ben": "no_free_gpu",
        "cem": "no_such_node",
    }
    assert actions(plan) == {"dan": "create"}


def test_a_person_without_a_place_whose_seat_runs_keeps_it(world: World) -> None:
    """The lock of before names a node that is gone."""
    world.places["bob"] = Placement(node="n7")
    plan = world.plan(with_row("bob", node="")).plan
    assert changed(plan) == {}
    assert [problem.code for problem in plan.unplaced.values()] == ["node_gone"]


# Ports after the end of a term.


def term_lab(ends: date) -> Lab:
    return roster_lab(people={"roster": "roster.csv", "term_ends": ends})


@pytest.mark.parametrize(("ends", "is_free"), [(TODAY - timedelta(1), True), (TODAY, False)])
def test_a_new_person_gets_the_ports_of_who_has_left_once_the_term_is_over(
    world: World, ends: date, is_free: bool
) -> None:
    before = world.seat_of("zoe").ports
    world.roll_out(without("zoe"))
    world.change("n2", "demo_zoe", stopped_on=TODAY - timedelta(9))
    world.probed = {name: with_accounts(facts, [*SIX, person("fay")]) for name, facts in world.probed.items()}
    fay = [*without("zoe"), person("fay", node="n2")]
    world.roll_out(fay, lab=term_lab(ends))
    assert (world.seat_of("fay").ports == before) is is_free
    assert world.plan(fay, lab=term_lab(ends)).plan.pending == ()
    plan = world.roll_out([*fay, person("zoe", node="n2")], lab=term_lab(ends)).plan
    assert codes(plan) == ({"zoe": ["ports_changed"]} if is_free else {})
    assert [step.person for step in plan.pending] == ["zoe"]
    assert (world.seat_of("zoe").ports == before) is not is_free
    assert_nothing_is_given_twice(world.running()["n2"])


# Cards of seats that cannot be changed now.

BUSY = {"at_work": ("GPU 0: pid 4242 python of ann",)}


def test_the_card_of_a_seat_that_is_in_use_is_given_to_nobody_else_before_it_is_stopped() -> None:
    rows = {name: person(name, gpus=1) for name in ("ann", "ben")}
    world = World(list(rows.values()), {"n1": 1})
    world.roll_out([rows["ann"]])
    world.change("n1", "demo_ann", **BUSY)
    plan = world.plan([rows["ben"]]).plan
    assert actions(plan) == {"ann": "defer", "ben": "defer"}
    assert codes(plan) == {"ann": ["busy"], "ben": ["gpu_held"]}
    assert "demo_ann still has GPUs" in plan.steps[1].problems[0].what
    world.roll_out([rows["ben"]])
    world.change("n1", "demo_ann", at_work=())
    assert [step.action for step in world.roll_out([rows["ben"]]).plan.pending] == ["stop", "create"]
    assert_nothing_is_given_twice(world.running()["n1"])


@pytest.mark.parametrize("when_busy", [WhenBusy(policy="wait", seconds=60), WhenBusy(policy="force", reason="exam")])
def test_a_seat_that_waits_or_stops_work_gives_its_card_in_the_same_rollout(when_busy: WhenBusy) -> None:
    world = World([person("ann", gpus=1)], {"n1": 1})
    world.roll_out()
    world.change("n1", "demo_ann", **BUSY)
    world.probed["n1"] = with_accounts(world.probed["n1"], [person("ben")])
    plan = world.plan([person("ben", gpus=1)], when_busy=when_busy).plan
    assert actions(plan) == {"ann": "stop", "ben": "create"}


def test_a_card_that_is_still_shared_by_work_becomes_nobodys_own(world: World) -> None:
    world.change("n1", "demo_bob", **BUSY)
    plan = world.plan(with_row("li.lei@example.edu", gpus=1)).plan
    assert changed(plan) == {"bob": "defer", "2024012345": "update", "li.lei@example.edu": "defer"}
    world.roll_out(with_row("li.lei@example.edu", gpus=1))
    assert_nothing_is_given_twice(world.running()["n1"])


def test_who_shares_is_upgraded_without_the_card_of_somebody_who_has_left_and_still_works(world: World) -> None:
    world.change("n1", "demo_ann", **BUSY)
    for name in ("demo_bob", "demo_2024012345"):
        world.change("n1", name, files={"seat.json": "of before"})
    prepared = world.roll_out(without("ann"))
    assert changed(prepared.plan) == {"ann": "defer", "bob": "update", "2024012345": "update"}
    assert_nothing_is_given_twice(world.running()["n1"])


def test_the_seat_of_a_node_that_is_in_use_keeps_its_cards_from_people() -> None:
    world = World()
    world.roll_out((), lab=NO_ROSTER)
    world.change("n1", "demo-student", **BUSY)
    plan = world.plan().plan
    with_cards = {"ann", "bob", "2024012345"}
    assert {name for name, action in actions(plan).items() if action == "defer"} >= with_cards
    assert actions(plan)["li.lei@example.edu"] == "create"


# Memory.


def memory(**groups: Any) -> Any:
    return roster_lab(groups=groups)


@pytest.mark.parametrize(
    ("limit", "others", "refused"),
    [("30g", None, False), ("31g", None, False), ("32g", None, True), ("60g", "1g", False), ("none", None, False)],
)
def test_limits_of_memory_that_add_up_to_more_than_twice_the_memory_of_a_node_are_refused(
    limit: str, others: str | None, refused: bool
) -> None:
    """n1 has 62.6 GiB and four people; with `others`, three of them are in another group."""
    group = {"group": "staff"} if others else {}
    people = [person(name, node="n1", **({} if name == "ann" else group)) for name in ("ann", "ben", "cem", "dan")]
    plan = World(people).plan(lab=memory(student={"memory": limit}, staff={"memory": others})).plan
    assert set(actions(plan).values()) == {"skip" if refused else "create"}
    found = Counter(problem.code for step in plan.steps for problem in (*step.problems, *step.remarks))
    assert found == Counter({"memory_overcommitted": 4 * refused, "memory_not_limited": int(limit == "none")})


def test_what_is_remarkable_about_a_node_is_apart_from_what_is_about_its_first_person() -> None:
    lost = Problem("gpu_lost", "GPU 3 is lost", "why", "reboot")
    world = World(with_row("ann", gpus=9))
    world.probed["n1"] = with_accounts(world.probed["n1"], SIX).model_copy(update={"problems": (lost,)})
    saved = world.plan().plan
    first = saved.steps[0]
    assert (first.person, first.remarks, first.problems) == ("2024012345", (lost,), ())
    world.probed["n1"] = with_accounts(world.probed["n1"], SIX).model_copy(update={"problems": ()})
    assert find_stale_nodes(saved, world.plan().plan) == []


def test_refused_memory_leaves_running_seats_as_they_are_and_still_stops_those_who_left(world: World) -> None:
    plan = world.plan(without("bob"), lab=memory(student={"memory": "60g"})).plan
    assert changed(plan) == {
        "bob": "stop",
        "ann": "skip",
        "2024012345": "skip",
        "li.lei@example.edu": "skip",
        **({"eve": "skip"} if world.places["eve"].node == "n1" else {"eve": "update"}),
        "zoe": "update",
    }


# Saved plans.


def test_a_saved_plan_has_the_places_and_is_the_same_plan_again(world: World) -> None:
    reviewed = Plan.model_validate_json(world.plan(with_row("bob", node="n2")).plan.model_dump_json())
    now = world.plan(with_row("bob", node="n2")).plan
    assert reviewed.places == now.places != world.places
    assert find_stale_nodes(reviewed, now) == []
    world.places = reviewed.places
    again = world.plan(with_row("bob", node="n2")).plan
    assert [problem.node for problem in find_stale_nodes(reviewed, again)] == []
    stale = world.plan(without("bob")).plan
    assert {problem.node for problem in find_stale_nodes(reviewed, stale)} == {"n1", "n2"}


# Many edits.


def edited(rows: dict[str, Person], rng: Random) -> str:
    """Change, add or remove one row. Return whose."""
    name = rng.choice("abcdefghijklmnopqrst")
    if name in rows and rng.random() < 0.3:
        del rows[name]
        return name
    change = rng.choice(["gpus", "gpus", "node", "group", "keys", "until"])
    values: dict[str, Any] = {
        "gpus": rng.choice([0, 0, 1, 1, 2, "shared", "shared"]),
        "node": rng.choice(["", "", "n*", "n1", "n2", "n3"]),
        "group": rng.choice(["", "staff"]),
        "keys": (f"{KEY} {rng.randrange(9)}",),
        "until": rng.choice([None, TODAY - timedelta(1), TODAY]),
    }
    before = rows.get(name, person(name, gpus=values["gpus"], node=values["node"]))
    rows[name] = before.model_copy(update={change: values[change]})
    return name


def random_edits(seed: int, number: int) -> None:
    """Edit a roster, plan and roll out, again and again; nobody is touched whom the edit does not concern."""
    rng, rows = Random(seed), dict[str, Person]()
    world = World([person(name) for name in "abcdefghijklmnopqrst"], {"n1": 4, "n2": 8, "n3": 2})
    waiting = set[str]()
    for count in range(number):
        shares = {seat.person: set(seat.gpus) for seats in world.running().values() for seat in seats if seat.shared}
        who = edited(rows, rng)
        plan = world.roll_out(list(rows.values())).plan
        own = {card for place in plan.places.values() for card in place.gpus}
        losers = {name for name, cards in shares.items() if cards & own}
        assert {step.person for step in plan.pending} <= {who} | waiting | losers
        waiting = set(plan.unplaced) | {step.person for step in (*plan.skipped, *plan.deferred)}
        assert count % 10 or world.plan(list(rows.values())).plan.pending == ()
        for seats in world.running().values():
            assert_nothing_is_given_twice(seats)
        present = {name for name, row in rows.items() if row.until is None or row.until >= TODAY}
        assert {seat.person for seats in world.running().values() for seat in seats} <= present


@costly
@given(st.integers(0, 1 << 32))
@example(18464)  # a seat that is refused holds on to the card that another person gets
def test_random_edits_touch_nobody_who_need_not_be_touched(seed: int) -> None:
    random_edits(seed, number=20)


@pytest.mark.long("roster")
def test_a_thousand_edits_touch_nobody_who_need_not_be_touched() -> None:
    random_edits(2026, number=1000)
