"""The order of a run, on nodes that are small files."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from provisioner.domain.rollout.plan import Action
from provisioner.domain.rollout.report import NodeState
from provisioner.domain.rollout.run_spec import Rules, RunSpec, build_run_spec
from provisioner.domain.seat.seat import SeatBundle
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.rollout.claims import fence_above, refuse_held
from provisioner.workflow.rollout.plan import PreparedPlan
from provisioner.workflow.rollout.run import Outcome, never, roll_out, run_waves
from tests.builders import a_locked_image
from tests.workflow.fake_fleet import FakeFleet, a_claim, a_plan, a_seat, an_order

WAVES = Rules(waves=("1", "100%"))
BEGAN = datetime(2026, 11, 26, tzinfo=UTC)


def an_undertaking(actions: Mapping[str, Action], rules: Rules = WAVES, run: str = "r1", pull: int = 0) -> RunSpec:
    orders = {node: an_order(node, run) for node in actions}
    return build_run_spec(run, a_plan(actions, pull), orders, rules, BEGAN).with_claim(a_claim(run))


def prepared(actions: Mapping[str, Action]) -> PreparedPlan:
    bundles = {node: SeatBundle(seat=a_seat(node), image=a_locked_image(), files={}) for node in actions}
    return PreparedPlan(a_plan(actions), bundles)


def creating(*nodes: str) -> dict[str, Action]:
    return dict.fromkeys(nodes, "create")


def states(outcome: Outcome) -> dict[str, NodeState]:
    return {record.node: record.state for record in outcome.records}


def changes(fleet: FakeFleet) -> list[tuple[str, tuple[str, ...]]]:
    return [asked for asked in fleet.asked if asked[0] in {"stage", "switch"}]


def run(
    fleet: FakeFleet, actions: Mapping[str, Action], rules: Rules = WAVES, news: list[Event] | None = None
) -> Outcome:
    heard = [] if news is None else news
    outcome = run_waves(an_undertaking(actions, rules), fleet, heard.append, never)
    assert [record.node for record in outcome.records] == list(actions)
    return outcome


def test_the_first_node_goes_alone_then_the_rest_and_each_wave_is_staged_before_it_switches(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path).add("n1", "n2", "n3")
    outcome = run(fleet, creating("n1", "n2", "n3"))
    assert changes(fleet) == [
        ("stage", ("n1",)),
        ("switch", ("n1",)),
        ("stage", ("n2", "n3")),
        ("switch", ("n2", "n3")),
    ]
    assert set(states(outcome).values()) == {"committed"}
    assert outcome.stopped is None


def test_every_node_is_claimed_before_the_first_is_touched_and_let_go_by_its_own_job(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path).add("n1", "n2", "n3")
    run(fleet, creating("n1", "n2", "n3"))
    assert fleet.asked[0] == ("claim", ("n1", "n2", "n3"))
    assert "release" not in [act for act, _ in fleet.asked]
    assert fleet.alive() == dict.fromkeys(("n1", "n2", "n3"))


@pytest.mark.parametrize("end", ["rolled_back", "failed", "needs_attention", "unknown", "unreachable"])
def test_a_first_node_that_is_not_done_stops_the_run(tmp_path: Path, end: NodeState) -> None:
    fleet = FakeFleet(tmp_path, {"switch": {"n1": end}}).add("n1", "n2")
    outcome = run(fleet, creating("n1", "n2"))
    assert states(outcome) == {"n1": end, "n2": "not_started"}
    assert ("stage", ("n2",)) not in fleet.asked
    assert outcome.stopped is not None
    assert outcome.stopped.code == "too_many_failures"
    assert fleet.alive()["n2"] is None


@pytest.mark.parametrize("end", ["deferred", "stale"])
def test_nodes_that_were_not_harmed_stop_nothing(tmp_path: Path, end: NodeState) -> None:
    outcome = run(FakeFleet(tmp_path, {"switch": {"n1": end}}).add("n1", "n2"), creating("n1", "n2"))
    assert states(outcome) == {"n1": end, "n2": "committed"}


def test_nothing_old_stops_in_a_wave_where_more_could_not_be_staged_than_may(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path, {"stage": {"n3": "failed"}}).add("n1", "n2", "n3")
    outcome = run(fleet, creating("n1", "n2", "n3"))
    assert states(outcome) == {"n1": "committed", "n2": "not_started", "n3": "failed"}
    assert changes(fleet)[-1] == ("stage", ("n2", "n3"))
    assert fleet.alive() == dict.fromkeys(("n1", "n2", "n3"))


def test_within_the_budget_a_node_that_could_not_be_staged_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path, {"stage": {"n3": "failed"}}).add("n1", "n2", "n3", "n4")
    outcome = run(fleet, creating("n1", "n2", "n3", "n4"), Rules(("1", "3", "100%"), max_failures="1"))
    assert states(outcome) == {"n1": "committed", "n2": "committed", "n3": "failed", "n4": "committed"}
    assert ("switch", ("n2",)) in fleet.asked


def test_a_budget_is_met_and_not_exceeded_across_waves(tmp_path: Path) -> None:
    ends: Mapping[str, Mapping[str, NodeState]] = {"switch": {"n1": "rolled_back", "n3": "unknown"}}
    outcome = run(
        FakeFleet(tmp_path, ends).add("n1", "n2", "n3", "n4"),
        creating("n1", "n2", "n3", "n4"),
        Rules(("1", "2", "3"), max_failures="1"),
    )
    assert states(outcome) == {"n1": "rolled_back", "n2": "committed", "n3": "unknown", "n4": "not_started"}


@pytest.mark.parametrize(
    ("allowed", "others"),
    [(0, "not_started"), (1, "not_started"), (2, "committed"), (5, "committed")],
)
def test_nodes_that_are_away_beforehand_count_unless_they_were_allowed_for(
    tmp_path: Path, allowed: int, others: NodeState
) -> None:
    fleet = FakeFleet(tmp_path).add("n1", "n2")
    actions: dict[str, Action] = {"n1": "create", "n2": "create", "n3": "skip", "n4": "skip"}
    outcome = run(fleet, actions, WAVES._replace(allow_unreachable=allowed))
    assert states(outcome) == {"n1": others, "n2": others, "n3": "unreachable", "n4": "unreachable"}
    assert bool(fleet.asked) is (others == "committed"), "a run that may not begin touches nobody"


def test_what_was_allowed_for_nodes_that_are_away_is_not_there_for_others(tmp_path: Path) -> None:
    actions: dict[str, Action] = {"n1": "create", "n2": "create", "n3": "skip"}
    fleet = FakeFleet(tmp_path, {"switch": {"n1": "failed"}}).add("n1", "n2")
    outcome = run(fleet, actions, WAVES._replace(allow_unreachable=9))
    assert states(outcome)["n2"] == "not_started"


def test_nodes_without_work_are_not_asked_and_keep_their_reason(tmp_path: Path) -> None:
    fleet, news = FakeFleet(tmp_path), list[Event]()
    outcome = run(fleet, {"n1": "keep", "n2": "skip", "n3": "defer"}, news=news)
    assert states(outcome) == {"n1": "unchanged", "n2": "unreachable", "n3": "deferred"}
    assert fleet.asked == []
    assert news == []


def test_a_node_that_serves_says_how_to_reach_it_and_the_hidden_jupyter_has_a_tunnel(tmp_path: Path) -> None:
    access = run(FakeFleet(tmp_path).add("n1"), creating("n1")).records[0].access
    assert access is not None
    assert access.ssh == "ssh -p 22000 student@198.18.0.11"
    assert access.tunnel == "ssh -p 22000 student@198.18.0.11 -N -L 8888:jupyter:8888"


def test_each_node_of_a_wave_is_told_about_once(tmp_path: Path) -> None:
    news = list[Event]()
    run(FakeFleet(tmp_path, {"switch": {"n2": "rolled_back"}}).add("n1", "n2"), creating("n1", "n2"), news=news)
    ended = [(event.node, event.kind) for event in news if event.phase == "report" and event.node]
    assert ended == [("n1", "done"), ("n2", "failed")]


def test_ones_own_machine_is_claimed_by_nobody(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path).add("n1")
    what = build_run_spec("r1", a_plan(creating("n1")), {"n1": an_order("n1")}, Rules(), BEGAN)
    outcome = roll_out(what, fleet, lambda _: None, local=True)
    assert states(outcome) == {"n1": "committed"}
    assert fleet.asked == [("stage", ("n1",)), ("switch", ("n1",))]


# One writer.


def test_a_node_of_another_run_refuses_before_anything_changes_and_the_others_are_let_go(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path).add("n1", "n2", "n3")
    fleet.claim(a_claim("other"), ["n2"], "")
    with pytest.raises(ProblemError, match="run other of ann@control1") as caught:
        run(fleet, creating("n1", "n2", "n3"))
    assert caught.value.ending == "locked"
    assert [problem.fix.rpartition(" ")[2] for problem in caught.value.problems] == ["other"]
    assert changes(fleet) == []
    assert {node: claim and claim["run"] for node, claim in fleet.alive().items()} == {
        "n1": None,
        "n2": "other",
        "n3": None,
    }


def test_groups_that_do_not_overlap_go_on(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path).add("n1", "n2")
    fleet.claim(a_claim("other"), ["n2"], "")
    assert states(run(fleet, creating("n1"))) == {"n1": "committed"}


def test_who_would_be_refused_is_told_before_being_asked(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path).add("n1", "n2")
    fleet.claim(a_claim("other", fence=4), ["n2"], "")
    probed = fleet.probe(["n1", "n2"])
    refuse_held(probed, ["n1"], "mine", "")
    refuse_held(probed, ["n1", "n2"], "mine", "other")
    with pytest.raises(ProblemError, match="claimed"):
        refuse_held(probed, ["n1", "n2"], "mine", "")
    assert fence_above(probed) == 5


def test_a_controller_that_slept_while_another_took_over_is_refused_by_every_node(tmp_path: Path) -> None:
    """A is stopped between its waves; B breaks its lock and is done; A wakes up."""

    def awake(moment: str) -> None:
        if moment == "stage before n2":
            b = an_undertaking(creating("n2", "n3"), run="r2").with_claim(a_claim("r2", fence=2))
            outcome = run_waves(b, FakeFleet(tmp_path), lambda _: None, never, breaks="r1")
            assert states(outcome) == {"n2": "committed", "n3": "committed"}

    outcome = run(FakeFleet(tmp_path, at=awake).add("n1", "n2", "n3"), creating("n1", "n2", "n3"))
    assert states(outcome) == {"n1": "committed", "n2": "failed", "n3": "failed"}
    assert {record.problems[0].code for record in outcome.records[1:]} == {"fenced"}


def test_a_node_that_went_away_before_it_was_claimed_is_unreachable(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path, {"reach": {"n2": "unreachable"}}).add("n1", "n2")
    assert states(run(fleet, creating("n1", "n2"))) == {"n1": "not_started", "n2": "unreachable"}


# Stopping.


@pytest.mark.parametrize(
    ("moment", "ended"),
    [
        ("claim after n1", {"n1": "not_started", "n2": "not_started", "n3": "not_started"}),
        ("stage before n1", {"n1": "not_started", "n2": "not_started", "n3": "not_started"}),
        ("switch before n1", {"n1": "committed", "n2": "not_started", "n3": "not_started"}),
        ("stage before n2", {"n1": "committed", "n2": "not_started", "n3": "not_started"}),
        ("switch before n2", {"n1": "committed", "n2": "committed", "n3": "committed"}),
    ],
)
def test_a_stop_ends_the_run_after_what_is_at_work(tmp_path: Path, moment: str, ended: dict[str, NodeState]) -> None:
    said = set[str]()
    fleet = FakeFleet(tmp_path, at=said.add).add("n1", "n2", "n3")
    what = an_undertaking(creating("n1", "n2", "n3"))
    outcome = run_waves(what, fleet, lambda _: None, lambda: moment in said)
    assert states(outcome) == ended
    assert (outcome.stopped is None) == ("not_started" not in ended.values())
    assert fleet.alive() == dict.fromkeys(("n1", "n2", "n3"))


def test_what_comes_in_the_way_defers_the_waves_that_are_left(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path).add("n1", "n2", "n3")
    closed = Problem("outside_window", "it is noon", "w", "f")
    what = an_undertaking(creating("n1", "n2", "n3"))
    outcome = run_waves(
        what, fleet, lambda _: None, never, gate=lambda: closed if fleet.read("n1")["generation"] else None
    )
    assert states(outcome) == {"n1": "committed", "n2": "deferred", "n3": "deferred"}
    assert outcome.records[1].problems == (closed,)
    assert fleet.alive() == dict.fromkeys(("n1", "n2", "n3"))


# Turns at the registry.


def test_no_more_pull_at_once_than_the_line_carries(tmp_path: Path) -> None:
    """1000 bytes took the first node 20 s; of the 60 s that a pull may last, two nodes need 40 s and three all."""
    nodes = [f"n{number}" for number in range(1, 6)]
    fleet = FakeFleet(tmp_path, seconds=20.0).add(*nodes)
    run_waves(an_undertaking(creating(*nodes), pull=1000), fleet, lambda _: None, never)
    assert [len(who) for act, who in fleet.asked if act == "stage"] == [1, 1, 1, 1, 1]


@pytest.mark.parametrize(("at_once", "turns"), [(None, [1, 4]), (3, [1, 3, 1])])
def test_turns_of_a_fast_line_and_turns_as_told(tmp_path: Path, at_once: int | None, turns: list[int]) -> None:
    nodes = [f"n{number}" for number in range(1, 6)]
    fleet = FakeFleet(tmp_path, seconds=1.0).add(*nodes)
    what = an_undertaking(creating(*nodes), WAVES._replace(pulls=at_once), pull=1000)
    assert set(states(run_waves(what, fleet, lambda _: None, never)).values()) == {"committed"}
    assert [len(who) for act, who in fleet.asked if act == "stage"] == turns
    assert [len(who) for act, who in fleet.asked if act == "switch"] == [1, 4]


def test_a_stop_between_turns_leaves_the_rest_of_the_wave(tmp_path: Path) -> None:
    said = set[str]()
    fleet = FakeFleet(tmp_path, at=said.add).add("n1", "n2", "n3")
    what = an_undertaking(creating("n1", "n2", "n3"), Rules(pulls=1), pull=1000)
    outcome = run_waves(what, fleet, lambda _: None, lambda: "stage after n1" in said)
    assert set(states(outcome).values()) == {"not_started"}
    assert changes(fleet) == [("stage", ("n1",))]
