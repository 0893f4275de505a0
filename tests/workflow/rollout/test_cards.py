"""GPUs that go from one seat to another within one plan."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.rollout.plan import Step
from provisioner.domain.seat.document import SeatBundle, SeatDocument
from provisioner.domain.seat.seat import Seat
from provisioner.domain.values.node import NodeFacts, RunningSeat
from provisioner.workflow.rollout.cards import PlannedSeat, defer_for_cards
from tests.builders import a_locked_image, a_node
from tests.playbooks.node_code import module_util
from tests.workflow.fake_fleet import a_seat

find_givers = module_util("jobs.gpu_order").find_givers
Wish = tuple[str, str, str]  # the name of a seat, a letter for each GPU that it has, and for each that it gets


def cards(letters: str) -> tuple[str, ...]:
    return tuple(letters.strip("*"))


def a_running_seat(name: str, before: str) -> RunningSeat:
    return RunningSeat(
        name=name,
        lab="demo",
        person=name,
        generation=1,
        image="i",
        gpus=cards(before),
        shared=before.startswith("*"),
        services={"ssh": "healthy"},
    )


def a_wanted_seat(name: str, after: str) -> Seat:
    changes = {"person": name, "gpus": cards(after), "shared": after.startswith("*")}
    return a_seat("n1", name).model_copy(update=changes)


def facts_of(*wishes: Wish) -> NodeFacts:
    return a_node("n1", seats=tuple(a_running_seat(name, before) for name, before, _ in wishes if before))


def planned(*wishes: Wish) -> list[PlannedSeat]:
    return [
        PlannedSeat(
            Step(node="n1", seat=name, person=name, action="update" if before else "create", why="", generation=1),
            SeatBundle(seat=a_wanted_seat(name, after), image=a_locked_image(), document=SeatDocument(files={})),
        )
        for name, before, after in wishes
    ]


def actions(*wishes: Wish) -> dict[str, str]:
    found = defer_for_cards(planned(*wishes), facts_of(*wishes), "demo")
    return {seat.step.person: seat.step.action for seat in found}


def test_a_chain_of_seats_is_changed_in_one_run() -> None:
    assert actions(("a", "", "1"), ("b", "1", "2"), ("c", "2", "3"), ("d", "*3", "")) == {
        "a": "create",
        "b": "update",
        "c": "update",
        "d": "update",
    }


@pytest.mark.parametrize(
    "cycle",
    [
        (("a", "1", "2"), ("b", "2", "1")),
        (("a", "1", "2"), ("b", "2", "3"), ("c", "3", "1")),
        (("a", "12", "34"), ("b", "3", "1"), ("c", "4", "2")),
    ],
    ids=["swap", "ring", "two swaps"],
)
def test_seats_that_get_gpus_of_each_other_are_left_out_and_who_is_to_be_stopped_is_said(
    cycle: tuple[Wish, ...],
) -> None:
    besides = (("x", "", cards(cycle[0][1])[0]), ("y", "9", "8"))
    found = {
        seat.step.person: seat.step for seat in defer_for_cards(planned(*cycle, *besides), facts_of(*cycle), "demo")
    }
    left_out = {name for name, step in found.items() if step.action == "skip"}
    assert left_out == {name for name, _, _ in cycle}
    assert (found["x"].action, found["y"].action) == ("defer", "update")
    (problem,) = found["a"].problems
    assert problem.code == "gpus_exchanged"
    assert "provision seats stop demo a --reason TEXT" in problem.fix


def test_who_shares_a_gpu_that_another_one_shares_afterwards_does_not_wait_for_it() -> None:
    found = actions(("a", "1", "*2"), ("b", "*2", "1"), ("c", "*2", "*2"))
    assert set(found.values()) == {"update"}


def test_after_one_of_them_was_stopped_the_others_are_changed() -> None:
    """The fix that the problem names: its place keeps the GPUs that it is to have."""
    swap = (("a", "1", "2"), ("b", "2", "1"))
    down = a_running_seat("a", "1").model_copy(update={"services": {"ssh": "missing"}})
    facts = a_node("n1", seats=(down, a_running_seat("b", "2")))
    (only,) = defer_for_cards(planned(swap[1]), facts, "demo")
    assert only.step.action == "update"


letters = st.sets(st.sampled_from("12345"), max_size=2).map(lambda found: "".join(sorted(found)))
wishes = st.lists(st.tuples(letters, letters, st.booleans(), st.booleans()), min_size=1, max_size=6)


@given(wishes)
def test_the_seats_of_a_plan_never_wait_for_each_other(found: list[tuple[str, str, bool, bool]]) -> None:
    """Neither on the node: the order in which it changes them has no cycle."""
    named = [
        (f"s{number}", "*" * is_shared + before, "*" * shares + after)
        for number, (before, after, is_shared, shares) in enumerate(found)
    ]
    pending = {
        seat.step.person for seat in defer_for_cards(planned(*named), facts_of(*named), "demo") if seat.step.starts
    }
    orders = [
        {
            "seat": {"name": name, "gpus": cards(after), "shared": after.startswith("*")},
            "held": {"gpus": cards(before), "shared": before.startswith("*")},
        }
        for name, before, after in named
        if name in pending
    ]
    left = find_givers(orders)
    while left:
        free = {name for name, givers in left.items() if not givers & set(left)}
        assert free
        left = {name: givers for name, givers in left.items() if name not in free}
