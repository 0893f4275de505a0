"""The order of the steps of a run, on nodes that are small files."""

import errno
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from provisioner.adapters.ansible.batch import dump_batch
from provisioner.domain.rollout.order import HeldGpus, Order
from provisioner.domain.rollout.plan import Action, Plan, Step
from provisioner.domain.rollout.report import NodeState, RolloutReport
from provisioner.domain.rollout.run_spec import Rules, RunSpec, build_run_spec
from provisioner.domain.seat.document import SeatBundle, SeatDocument
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.protocols import StopRequested
from provisioner.workflow.rollout.claims import claim_nodes, fence_above, refuse_any_claim, refuse_claimed
from provisioner.workflow.rollout.plan import PreparedPlan
from provisioner.workflow.rollout.removal import removal_orders
from provisioner.workflow.rollout.run import Outcome, never_stop, roll_out_locally, run_waves
from tests.builders import a_locked_image
from tests.workflow.fake_fleet import (
    SEAT,
    FakeFleet,
    FakeJournal,
    a_claim,
    a_context,
    a_plan,
    a_seat,
    an_order,
    orders_of,
)
from tests.workflow.fake_fleet import claims as node_claims

WAVES = Rules(waves=("1", "100%"), prefetch=False)
BEGAN = datetime(2026, 11, 26, tzinfo=UTC)


def a_run_spec(actions: Mapping[str, Action], rules: Rules = WAVES, run: str = "r1", pull: int = 0) -> RunSpec:
    return build_run_spec(run, a_plan(actions, pull), orders_of(*actions, run=run), rules, BEGAN).with_claim(
        a_claim(run)
    )


def prepared(actions: Mapping[str, Action]) -> PreparedPlan:
    document = SeatDocument(files={})
    bundles = {
        node: {SEAT: SeatBundle(seat=a_seat(node), image=a_locked_image(), document=document)} for node in actions
    }
    return PreparedPlan(a_plan(actions), bundles)


def creating(*nodes: str) -> dict[str, Action]:
    return dict.fromkeys(nodes, "create")


def states(outcome: Outcome) -> dict[str, NodeState]:
    return {record.node: record.state for record in outcome.records}


def changes(fleet: FakeFleet) -> list[tuple[str, tuple[str, ...]]]:
    return [asked for asked in fleet.calls if asked[0] in {"stage", "switch"}]


def run(
    fleet: FakeFleet, actions: Mapping[str, Action], rules: Rules = WAVES, news: list[Event] | None = None
) -> Outcome:
    heard = [] if news is None else news
    outcome = run_waves(a_run_spec(actions, rules), fleet, a_context(heard.append))
    assert [record.node for record in outcome.records] == list(actions)
    return outcome


def test_waves_run_in_order_and_each_wave_is_staged_before_it_switches(tmp_path: Path) -> None:
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


def test_every_node_is_claimed_before_the_first_change_and_released_by_its_own_job(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path).add("n1", "n2", "n3")
    run(fleet, creating("n1", "n2", "n3"))
    assert fleet.calls[0] == ("claim", ("n1", "n2", "n3"))
    assert "release" not in [act for act, _ in fleet.calls]
    assert fleet.claims_by_node() == dict.fromkeys(("n1", "n2", "n3"))


@pytest.mark.parametrize("end", ["rolled_back", "failed", "needs_attention", "unknown", "unreachable"])
def test_a_first_node_that_fails_stops_the_run(tmp_path: Path, end: NodeState) -> None:
    fleet = FakeFleet(tmp_path, {"switch": {"n1": end}}).add("n1", "n2")
    outcome = run(fleet, creating("n1", "n2"))
    assert states(outcome) == {"n1": end, "n2": "not_started"}
    assert ("stage", ("n2",)) not in fleet.calls
    assert outcome.stopped is not None
    assert outcome.stopped.code == "too_many_failures"
    assert fleet.claims_by_node()["n2"] is None


def test_a_move_that_fails_on_its_first_node_says_what_stays_as_it_is(tmp_path: Path) -> None:
    """No setting of lab.yml is the reason."""
    fleet = FakeFleet(tmp_path, {"switch": {"n1": "rolled_back"}}).add("n1", "n2")
    spec = a_run_spec(creating("n1", "n2")).model_copy(update={"verb": "seats move"})
    outcome = run_waves(spec, fleet, a_context())
    assert states(outcome) == {"n1": "rolled_back", "n2": "not_started"}
    assert outcome.stopped is not None
    assert outcome.stopped.code == "too_many_failures"
    assert "no seat on another node is changed" in outcome.stopped.what
    assert "max_failures" not in str(outcome.stopped)


@pytest.mark.parametrize("end", ["deferred", "stale"])
def test_deferred_and_stale_nodes_do_not_stop_the_run(tmp_path: Path, end: NodeState) -> None:
    outcome = run(FakeFleet(tmp_path, {"switch": {"n1": end}}).add("n1", "n2"), creating("n1", "n2"))
    assert states(outcome) == {"n1": end, "n2": "committed"}


def test_a_seat_that_gets_other_keys_is_not_staged_and_its_node_gets_the_keys(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path).add("n1", "n2")
    outcome = run(fleet, {"n1": "assign", "n2": "create"})
    assert states(outcome) == {"n1": "committed", "n2": "committed"}
    assert [nodes for act, nodes in fleet.calls if act == "stage"] == [("n2",)]
    assert fleet.read("n1")["keys"] == list(a_seat("n1").authorized_keys)
    assert fleet.read("n1")["generation"] == 0


def test_no_node_of_a_wave_switches_if_staging_exceeds_the_budget(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path, {"stage": {"n3": "failed"}}).add("n1", "n2", "n3")
    outcome = run(fleet, creating("n1", "n2", "n3"))
    assert states(outcome) == {"n1": "committed", "n2": "not_started", "n3": "failed"}
    assert changes(fleet)[-1] == ("stage", ("n2", "n3"))
    assert fleet.claims_by_node() == dict.fromkeys(("n1", "n2", "n3"))


def test_within_the_budget_a_node_that_fails_to_stage_is_left_out_and_the_others_continue(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path, {"stage": {"n3": "failed"}}).add("n1", "n2", "n3", "n4")
    outcome = run(fleet, creating("n1", "n2", "n3", "n4"), Rules(("1", "3", "100%"), max_failures="1"))
    assert states(outcome) == {"n1": "committed", "n2": "committed", "n3": "failed", "n4": "committed"}
    assert ("switch", ("n2",)) in fleet.calls


def test_the_budget_counts_failures_of_all_waves(tmp_path: Path) -> None:
    ends: Mapping[str, Mapping[str, NodeState]] = {"switch": {"n1": "rolled_back", "n3": "unknown"}}
    outcome = run(
        FakeFleet(tmp_path, ends).add("n1", "n2", "n3", "n4"),
        creating("n1", "n2", "n3", "n4"),
        Rules(("1", "2", "3"), max_failures="1", prefetch=False),
    )
    assert states(outcome) == {"n1": "rolled_back", "n2": "committed", "n3": "unknown", "n4": "not_started"}


@pytest.mark.parametrize(
    ("allowed", "others"),
    [(0, "not_started"), (1, "not_started"), (2, "committed"), (5, "committed")],
)
def test_nodes_unreachable_beforehand_count_unless_allowed(tmp_path: Path, allowed: int, others: NodeState) -> None:
    fleet = FakeFleet(tmp_path).add("n1", "n2")
    actions: dict[str, Action] = {"n1": "create", "n2": "create", "n3": "skip", "n4": "skip"}
    outcome = run(fleet, actions, WAVES._replace(allow_unreachable=allowed))
    assert states(outcome) == {"n1": others, "n2": others, "n3": "unreachable", "n4": "unreachable"}
    assert bool(fleet.calls) is (others == "committed"), "a run that may not begin contacts no node"


def test_allow_unreachable_does_not_cover_other_failures(tmp_path: Path) -> None:
    actions: dict[str, Action] = {"n1": "create", "n2": "create", "n3": "skip"}
    fleet = FakeFleet(tmp_path, {"switch": {"n1": "failed"}}).add("n1", "n2")
    outcome = run(fleet, actions, WAVES._replace(allow_unreachable=9))
    assert states(outcome)["n2"] == "not_started"


def test_nodes_without_changes_are_not_contacted_and_keep_their_reason(tmp_path: Path) -> None:
    fleet, news = FakeFleet(tmp_path), list[Event]()
    outcome = run(fleet, {"n1": "keep", "n2": "skip", "n3": "defer"}, news=news)
    assert states(outcome) == {"n1": "unchanged", "n2": "unreachable", "n3": "deferred"}
    assert fleet.calls == []
    assert news == []


def test_the_record_of_a_running_seat_has_its_ssh_command_and_the_tunnel_to_jupyter(tmp_path: Path) -> None:
    access = run(FakeFleet(tmp_path).add("n1"), creating("n1")).records[0].access
    assert access is not None
    assert access.ssh == "ssh -p 22000 student@198.18.0.11"
    assert access.tunnel == "ssh -p 22000 student@198.18.0.11 -N -L 8888:jupyter:8888"


def test_each_node_of_a_wave_is_reported_once(tmp_path: Path) -> None:
    news = list[Event]()
    run(FakeFleet(tmp_path, {"switch": {"n2": "rolled_back"}}).add("n1", "n2"), creating("n1", "n2"), news=news)
    ended = [(event.node, event.kind) for event in news if event.phase == "report" and event.node]
    assert ended == [("n1", "done"), ("n2", "failed")]


def test_a_local_rollout_makes_no_claim(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path).add("n1")
    run_spec = build_run_spec("r1", a_plan(creating("n1")), orders_of("n1"), Rules(), BEGAN)
    outcome = roll_out_locally(run_spec, fleet, a_context())
    assert states(outcome) == {"n1": "committed"}
    assert fleet.calls == [("stage", ("n1",)), ("switch", ("n1",))]


# Claims.


def fill_disk(monkeypatch: pytest.MonkeyPatch, node: str) -> None:
    write = node_claims.write_atomic

    def write_or_fail(path: Path, text: str) -> None:
        if path.parent.name == node:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, text)

    monkeypatch.setattr(node_claims, "write_atomic", write_or_fail)


def test_a_node_with_a_full_disk_fails_alone_and_is_not_called_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_disk(monkeypatch, "n2")
    fleet = FakeFleet(tmp_path).add("n1", "n2", "n3")
    outcome = run(fleet, creating("n1", "n2", "n3"), Rules(("1", "100%"), max_failures="1"))
    assert states(outcome) == {"n1": "committed", "n2": "failed", "n3": "committed"}
    assert "No space left on device" in outcome.records[1].problems[0].what
    assert [act for act, nodes in fleet.calls if "n2" in nodes] == ["claim", "release"]


def test_a_node_whose_change_had_begun_is_unknown_without_a_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_disk(monkeypatch, "n1")
    found = claim_nodes(FakeFleet(tmp_path).add("n1"), a_claim(), {"n1": a_claim()}, "", lambda _: None, begun=["n1"])
    assert found["n1"].state == "unknown"


def test_a_node_that_cannot_be_claimed_counts_as_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch, "n2")
    fleet = FakeFleet(tmp_path).add("n1", "n2")
    outcome = run(fleet, creating("n1", "n2"))
    assert states(outcome) == {"n1": "not_started", "n2": "failed"}
    assert outcome.stopped is not None
    assert fleet.claims_by_node() == {"n1": None, "n2": None}


def test_a_node_claimed_by_another_run_refuses_before_any_change_and_the_others_are_released(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path).add("n1", "n2", "n3")
    fleet.claim({"n2": a_claim("other")}, "")
    with pytest.raises(ProblemError, match="run other of ann@control1") as caught:
        run(fleet, creating("n1", "n2", "n3"))
    assert caught.value.ending == "locked"
    assert [problem.fix.rpartition(" ")[2] for problem in caught.value.problems] == ["other"]
    assert changes(fleet) == []
    assert {node: claim and claim["run"] for node, claim in fleet.claims_by_node().items()} == {
        "n1": None,
        "n2": "other",
        "n3": None,
    }


@pytest.mark.parametrize(
    ("actions", "claimed", "kept"), [(creating("n1"), False, True), (creating("n1"), True, False), ({}, False, False)]
)
def test_the_journal_keeps_the_run_spec_unless_the_run_may_not_change_anything(
    tmp_path: Path, actions: dict[str, Action], claimed: bool, kept: bool
) -> None:
    fleet, context = FakeFleet(tmp_path).add("n1"), a_context()
    assert isinstance(context.journal, FakeJournal)
    if claimed:
        fleet.claim({"n1": a_claim("other")}, "")
    with suppress(ProblemError):
        run_waves(a_run_spec(actions), fleet, context)
    assert ("undertaking" in context.journal.documents) is kept


def test_runs_on_different_nodes_do_not_block_each_other(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path).add("n1", "n2")
    fleet.claim({"n2": a_claim("other")}, "")
    assert states(run(fleet, creating("n1"))) == {"n1": "committed"}


def a_spec_of(run: str, *seats: str) -> RunSpec:
    """The run that creates these seats on n1, with a claim of these alone."""
    spec = build_run_spec(
        run, a_plan({"n1": "create"}, seats=seats), orders_of("n1", run=run, seats=seats), WAVES, BEGAN
    )
    return spec.with_claim(a_claim(run).model_copy(update={"scope": "seats"}))


def test_a_run_claims_the_seats_that_it_changes_and_each_order_has_the_claim_of_its_seat() -> None:
    spec = a_spec_of("r1", "demo-a", "demo-b")
    assert {node: claim.seats for node, claim in spec.claims.items()} == {"n1": ("demo-a", "demo-b")}
    claims = [order.claim for order in spec.orders["n1"].values()]
    assert [claim.seats for claim in claims if claim] == [("demo-a",), ("demo-b",)]
    sent = json.loads(dump_batch(spec.orders["n1"]))
    assert sent["claim"]["seats"] == ["demo-a", "demo-b"]


def test_a_claim_of_whole_nodes_stays_one_in_each_order() -> None:
    spec = a_run_spec({"n1": "create"})
    assert (spec.claims, spec.orders["n1"][SEAT].claim) == ({"n1": a_claim()}, a_claim())
    removal = build_run_spec("r1", a_plan({"n1": "remove"}), {}, WAVES, BEGAN, verb="remove").with_claim(a_claim())
    assert removal_orders(removal)["n1"][SEAT].claim == a_claim()


def test_runs_on_different_seats_of_a_node_do_not_block_each_other(tmp_path: Path) -> None:
    """The second begins and ends while the first stages."""
    outcomes = list[Outcome]()

    def meanwhile(moment: str) -> None:
        if moment == "stage before n1/demo-a":
            outcomes.append(run_waves(a_spec_of("r2", "demo-b"), FakeFleet(tmp_path), a_context()))

    fleet = FakeFleet(tmp_path, at=meanwhile).add("n1", seats=("demo-a", "demo-b"))
    outcomes.append(run_waves(a_spec_of("r1", "demo-a"), fleet, a_context()))
    assert [states(outcome) for outcome in outcomes] == [{"n1": "committed"}, {"n1": "committed"}]
    assert fleet.claims_by_node() == {"n1": None}


def test_a_run_on_a_seat_that_another_run_changes_is_refused(tmp_path: Path) -> None:
    refused = list[ProblemError]()

    def meanwhile(moment: str) -> None:
        if moment == "stage before n1/demo-a":
            with pytest.raises(ProblemError, match="seats of the node are claimed by run r1") as caught:
                run_waves(
                    a_spec_of("r2", "demo-b").with_claim(a_claim("r2", fence=2)), FakeFleet(tmp_path), a_context()
                )
            refused.append(caught.value)

    fleet = FakeFleet(tmp_path, at=meanwhile).add("n1", seats=("demo-a", "demo-b"))
    assert states(run_waves(a_spec_of("r1", "demo-a", "demo-b"), fleet, a_context())) == {"n1": "committed"}
    assert [error.ending for error in refused] == ["locked"]


def test_only_a_claim_of_the_same_seats_is_refused_before_the_confirmation(tmp_path: Path) -> None:
    fleet, mine = FakeFleet(tmp_path).add("n1"), a_spec_of("mine", "demo-a")
    fleet.claim({"n1": a_claim("other").model_copy(update={"scope": "seats", "seats": ("demo-b",)})}, "")
    probed = fleet.probe(["n1"])
    refuse_claimed(probed, mine.claims, "")
    with pytest.raises(ProblemError, match="the seat demo-b is claimed by run other"):
        refuse_claimed(probed, a_spec_of("mine", "demo-a", "demo-b").claims, "")
    with pytest.raises(ProblemError, match="run other"):
        refuse_any_claim(probed)


def test_a_claimed_node_is_refused_before_the_confirmation(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path).add("n1", "n2")
    fleet.claim({"n2": a_claim("other", fence=4)}, "")
    probed = fleet.probe(["n1", "n2"])
    mine = dict.fromkeys(("n1", "n2"), a_claim("mine"))
    refuse_claimed(probed, {"n1": a_claim("mine")}, "")
    refuse_claimed(probed, mine, "other")
    with pytest.raises(ProblemError, match="claimed"):
        refuse_claimed(probed, mine, "")
    assert fence_above(probed) == 5


def test_a_controller_that_was_taken_over_from_is_refused_by_every_node(tmp_path: Path) -> None:
    """A is suspended between its waves; B breaks its lock and completes; A continues."""

    def take_over(moment: str) -> None:
        if moment == "stage before n2":
            b = a_run_spec(creating("n2", "n3"), run="r2").with_claim(a_claim("r2", fence=2))
            outcome = run_waves(b, FakeFleet(tmp_path), a_context(), breaks="r1")
            assert states(outcome) == {"n2": "committed", "n3": "committed"}

    outcome = run(FakeFleet(tmp_path, at=take_over).add("n1", "n2", "n3"), creating("n1", "n2", "n3"))
    assert states(outcome) == {"n1": "committed", "n2": "failed", "n3": "failed"}
    assert {record.problems[0].code for record in outcome.records[1:]} == {"fenced"}


def test_a_node_that_cannot_be_claimed_is_unreachable(tmp_path: Path) -> None:
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
def test_a_stop_request_ends_the_run_after_the_running_step(
    tmp_path: Path, moment: str, ended: dict[str, NodeState]
) -> None:
    said = set[str]()
    fleet = FakeFleet(tmp_path, at=said.add).add("n1", "n2", "n3")
    run_spec = a_run_spec(creating("n1", "n2", "n3"))
    outcome = run_waves(run_spec, fleet, a_context(stop=lambda: moment in said))
    assert states(outcome) == ended
    assert (outcome.stopped is None) == ("not_started" not in ended.values())
    assert fleet.claims_by_node() == dict.fromkeys(("n1", "n2", "n3"))


def test_a_closed_gate_defers_the_remaining_waves(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path).add("n1", "n2", "n3")
    closed = Problem("outside_window", "it is noon", "w", "f")
    run_spec = a_run_spec(creating("n1", "n2", "n3"))
    outcome = run_waves(run_spec, fleet, a_context(), gate=lambda: closed if fleet.read("n1")["generation"] else None)
    assert states(outcome) == {"n1": "committed", "n2": "deferred", "n3": "deferred"}
    assert outcome.records[1].problems == (closed,)
    assert fleet.claims_by_node() == dict.fromkeys(("n1", "n2", "n3"))


# Batches of pulls.


def test_pulls_are_batched_by_the_measured_throughput(tmp_path: Path) -> None:
    """1000 bytes took the first node 20 s; of the 60 s that a pull may last, two nodes need 40 s and three all."""
    nodes = [f"n{number}" for number in range(1, 6)]
    fleet = FakeFleet(tmp_path, seconds=20.0).add(*nodes)
    run_waves(a_run_spec(creating(*nodes), pull=1000), fleet, a_context())
    assert [len(who) for act, who in fleet.calls if act == "stage"] == [1, 1, 1, 1, 1]


@pytest.mark.parametrize(("at_once", "turns"), [(None, [1, 4]), (3, [1, 3, 1])])
def test_the_batch_size_follows_the_throughput_or_pull_concurrency(
    tmp_path: Path, at_once: int | None, turns: list[int]
) -> None:
    nodes = [f"n{number}" for number in range(1, 6)]
    fleet = FakeFleet(tmp_path, seconds=1.0).add(*nodes)
    run_spec = a_run_spec(creating(*nodes), WAVES._replace(pulls=at_once), pull=1000)
    assert set(states(run_waves(run_spec, fleet, a_context())).values()) == {"committed"}
    assert [len(who) for act, who in fleet.calls if act == "stage"] == turns
    assert [len(who) for act, who in fleet.calls if act == "switch"] == [1, 4]


def test_a_stop_request_between_batches_leaves_the_rest_of_the_wave(tmp_path: Path) -> None:
    said = set[str]()
    fleet = FakeFleet(tmp_path, at=said.add).add("n1", "n2", "n3")
    run_spec = a_run_spec(creating("n1", "n2", "n3"), Rules(pulls=1), pull=1000)
    outcome = run_waves(run_spec, fleet, a_context(stop=lambda: "stage after n1" in said))
    assert set(states(outcome).values()) == {"not_started"}
    assert changes(fleet) == [("stage", ("n1",))]


# Several seats on a node.

SEATS = ("ml_ann", "ml_bob", "ml_eve")


def a_seat_step(node: str, seat: str, action: Action, generation: int = 0) -> Step:
    return Step(node=node, seat=seat, person=seat[3:], action=action, why="", generation=generation)


def run_seats(fleet: FakeFleet, *steps: Step, rules: Rules = WAVES, stop: StopRequested = never_stop) -> Outcome:
    """Run steps of seats; each that is created or updated has an order."""
    orders: dict[str, dict[str, Order]] = {}
    for step in steps:
        if step.seat and step.action != "stop":
            orders.setdefault(step.node, {})[step.seat] = an_order(step.node, seat=step.seat)
    plan = Plan(lab="demo", image=None, steps=steps)
    run_spec = build_run_spec("r1", plan, orders, rules, BEGAN).with_claim(a_claim())
    return run_waves(run_spec, fleet, a_context(stop=stop))


def creating_seats(*nodes: str) -> list[Step]:
    return [a_seat_step(node, seat, "create") for node in nodes for seat in SEATS]


def seat_states(outcome: Outcome) -> dict[str, NodeState]:
    return {f"{record.node}/{seat.seat}": seat.state for record in outcome.records for seat in record.seats}


def test_seats_are_stopped_with_the_switch_and_before_others_start(tmp_path: Path) -> None:
    """Others may get their cards. In the plan they need not be first."""
    fleet = FakeFleet(tmp_path).add("n1", seats=SEATS)
    fleet._write("n1", fleet.read("n1", "ml_eve") | {"generation": 4}, "ml_eve")
    steps = [*creating_seats("n1")[:2], a_seat_step("n1", "ml_eve", "stop", generation=4)]
    outcome = run_seats(fleet, *steps)
    assert fleet.seat_calls == [
        ("stage", "n1", ("ml_ann", "ml_bob")),
        ("switch", "n1", ("ml_eve", "ml_ann", "ml_bob")),
    ]
    assert set(seat_states(outcome).values()) == {"committed"}
    assert fleet.read("n1", "ml_eve") | {"ends": {}} == {
        "generation": 4,
        "image": "",
        "run": "r1",
        "state": "removed",
        "ends": {},
    }


def test_each_order_says_which_gpus_its_seat_has_until_then() -> None:
    held = HeldGpus(gpus=("GPU-1",), shared=True)
    steps = (a_seat_step("n1", "ml_eve", "stop", generation=4), a_seat_step("n1", "ml_ann", "update", generation=4))
    with_gpus = tuple(step.model_copy(update={"gpus": held.gpus, "shared": held.shared}) for step in steps)
    plan = Plan(lab="demo", image=None, steps=with_gpus)
    spec = build_run_spec("r1", plan, orders_of("n1", seats=["ml_ann"]), Rules(), BEGAN)
    stop = removal_orders(spec)["n1"]["ml_eve"]
    assert (stop.act, stop.held, spec.orders["n1"]["ml_ann"].held) == ("stop", held, held)


def test_a_node_where_seats_are_only_stopped_is_not_staged(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path).add("n1", generation=1, seats=SEATS)
    outcome = run_seats(fleet, *(a_seat_step("n1", seat, "stop", generation=1) for seat in SEATS))
    assert fleet.seat_calls == [("switch", "n1", SEATS)]
    assert (states(outcome), outcome.records[0].counts) == ({"n1": "committed"}, {"committed": 3})


@pytest.mark.parametrize("end", ["failed", "stale"])
def test_a_seat_that_is_not_staged_does_not_keep_others_from_switching(tmp_path: Path, end: NodeState) -> None:
    fleet = FakeFleet(tmp_path, {"stage": {"n1/ml_bob": end}}).add("n1", seats=SEATS)
    outcome = run_seats(fleet, *creating_seats("n1"), rules=Rules(max_failures="1"))
    assert seat_states(outcome) == {"n1/ml_ann": "committed", "n1/ml_bob": end, "n1/ml_eve": "committed"}
    assert fleet.seat_calls[-1] == ("switch", "n1", ("ml_ann", "ml_eve"))
    assert states(outcome) == {"n1": end}


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        ({}, "committed"),
        ({"ml_ann": "deferred"}, "deferred"),
        ({"ml_ann": "deferred", "ml_bob": "stale"}, "stale"),
        ({"ml_ann": "stale", "ml_bob": "rolled_back"}, "rolled_back"),
        ({"ml_ann": "rolled_back", "ml_bob": "failed"}, "failed"),
        ({"ml_ann": "failed", "ml_eve": "unknown"}, "unknown"),
        ({"ml_ann": "needs_attention", "ml_eve": "unknown"}, "needs_attention"),
    ],
)
def test_the_state_of_a_node_is_the_worst_of_its_seats_and_each_state_is_counted(
    tmp_path: Path, ends: dict[str, NodeState], state: NodeState
) -> None:
    fleet = FakeFleet(tmp_path, {"switch": {f"n1/{seat}": end for seat, end in ends.items()}}).add("n1", seats=SEATS)
    outcome = run_seats(fleet, *creating_seats("n1"))
    ended = [ends.get(seat, "committed") for seat in SEATS]
    assert states(outcome) == {"n1": state}
    assert outcome.records[0].counts == Counter(ended)
    assert list(seat_states(outcome).values()) == ended


@pytest.mark.parametrize(("most", "others"), [("0", "not_started"), ("1", "committed")])
def test_the_budget_counts_nodes_and_not_their_seats(tmp_path: Path, most: str, others: NodeState) -> None:
    fleet = FakeFleet(tmp_path, {"switch": {"n1": "rolled_back"}}).add("n1", "n2", seats=SEATS)
    outcome = run_seats(fleet, *creating_seats("n1", "n2"), rules=WAVES._replace(max_failures=most))
    assert states(outcome) == {"n1": "rolled_back", "n2": others}
    assert outcome.records[1].counts == {others: 3}
    assert [seat.access is not None for seat in outcome.records[1].seats] == [others == "committed"] * 3


def test_seats_that_do_not_change_are_counted_and_left_out_unless_they_have_a_problem(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path).add("n1", seats=SEATS)
    fault = Problem("home_fault", "works with an empty home only", "w", "f")
    kept = a_seat_step("n1", "ml_dan", "keep", 3).model_copy(update={"problems": (fault,)})
    steps = [a_seat_step("n1", "ml_ann", "keep", 3), kept, a_seat_step("n1", "ml_bob", "create")]
    deferred = a_seat_step("n1", "ml_eve", "defer", 3)
    (record,) = run_seats(fleet, *steps, deferred).records
    assert [seat.seat for seat in record.seats] == ["ml_dan", "ml_eve", "ml_bob"]
    assert record.counts == {"unchanged": 2, "deferred": 1, "committed": 1}
    assert (record.state, record.problems) == ("deferred", (fault,))


def test_seats_that_the_stop_request_left_are_not_started_and_the_others_keep_their_state(tmp_path: Path) -> None:
    said = set[str]()
    fleet = FakeFleet(tmp_path, {"stage": {"n1/ml_bob": "failed"}}, at=said.add).add("n1", seats=SEATS)
    rules = Rules(max_failures="1")
    outcome = run_seats(fleet, *creating_seats("n1"), rules=rules, stop=lambda: "stage after n1" in said)
    assert seat_states(outcome) == {"n1/ml_bob": "failed", "n1/ml_ann": "not_started", "n1/ml_eve": "not_started"}
    assert fleet.claims_by_node() == {"n1": None}


def test_the_report_of_a_node_with_several_seats_as_json(tmp_path: Path) -> None:
    ends: Mapping[str, Mapping[str, NodeState]] = {"switch": {"n1/ml_ann": "rolled_back", "n1/ml_bob": "deferred"}}
    fleet = FakeFleet(tmp_path, ends).add("n1", seats=SEATS)
    kept = [a_seat_step("n1", f"ml_p{number}", "keep", 2) for number in range(2)]
    records = run_seats(fleet, *kept, *creating_seats("n1")).records
    report = RolloutReport(lab="demo", run="r1", started_at=BEGAN, ended_at=BEGAN, nodes=records)
    document = report.model_dump(mode="json", by_alias=True)
    assert document["schema"] == "provisioner/report/2"
    (node,) = document["nodes"]
    assert {name: node[name] for name in ("node", "state", "counts", "released", "problems")} == {
        "node": "n1",
        "state": "rolled_back",
        "counts": {"unchanged": 2, "rolled_back": 1, "deferred": 1, "committed": 1},
        "released": True,
        "problems": [],
    }
    assert [(seat["seat"], seat["state"], seat["generation"]) for seat in node["seats"]] == [
        ("ml_ann", "rolled_back", 0),
        ("ml_bob", "deferred", 0),
        ("ml_eve", "committed", 1),
    ]
    assert RolloutReport.model_validate_json(report.model_dump_json()) == report
