"""What is left to do of an interrupted run, according to its nodes."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pytest

from provisioner.domain.lab.ordered import OrderedImage
from provisioner.domain.rollout.order import build_order
from provisioner.domain.rollout.plan import Plan, Step
from provisioner.domain.rollout.report import NodeRecord, NodeState, RolloutReport, SeatRecord, build_node_record
from provisioner.domain.rollout.run_spec import Rules, RunSpec, build_run_spec
from provisioner.domain.values.event import Event, RecordedEvent
from provisioner.domain.values.model import Document
from provisioner.domain.values.node import NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from provisioner.workflow.rollout.resume import assess_nodes, final_records, is_open, remaining_images, resume
from provisioner.workflow.rollout.waves import report_records
from tests.builders import a_digest, a_lab, a_locked_image, a_node
from tests.domain.seats import DOCUMENTS, a_seat
from tests.workflow.fake_fleet import SEAT, UNREACHABLE, FakeFleet, a_claim, a_context, a_plan, an_order, orders_of
from tests.workflow.rollout.test_run import states

NOW = datetime(2026, 11, 26, tzinfo=UTC)
CASES = Path(__file__).parents[2] / "domain/cases"
DocumentT = TypeVar("DocumentT", bound=Document)


def three_node_run(generation: int = 1) -> RunSpec:
    nodes = ("n1", "n2", "n3")
    plan = a_plan(dict.fromkeys(nodes, "update"), generation=generation)
    return build_run_spec("r1", plan, orders_of(*nodes), Rules(("1", "2", "3"), prefetch=False), NOW)


def a_running_seat(generation: int, run: str, state: str, image: str = "other") -> RunningSeat:
    return RunningSeat(name=SEAT, generation=generation, image=image, run=run, state=state)


@pytest.mark.parametrize(
    ("seat", "expected"),
    [
        (a_running_seat(1, "r0", "committed"), "untouched"),
        (a_running_seat(1, "r1", "staged"), "untouched"),
        (a_running_seat(1, "r1", "switching"), "begun"),
        (a_running_seat(1, "r1", "verifying"), "begun"),
        (a_running_seat(1, "r1", "rolling_back"), "begun"),
        (a_running_seat(1, "r1", "rolled_back"), "begun"),
        (a_running_seat(1, "r1", "needs_attention"), "begun"),
        (a_running_seat(2, "r1", "committed"), "begun"),
        (a_running_seat(2, "r2", "committed"), "stale"),
        (a_running_seat(0, "r2", "removed"), "stale"),
        (None, "stale"),
        (a_running_seat(2, "r2", "committed", image="new"), "unchanged"),
    ],
)
def test_the_state_of_a_node_decides_what_is_left_to_do(seat: RunningSeat | None, expected: str) -> None:
    probed = {"n1": a_node("n1", seats=(seat,) if seat else ())}
    settled, begun = assess_nodes(three_node_run(), {}, probed)
    found = settled["n1"].state if "n1" in settled else "begun" if begun else "untouched"
    assert found == expected


def test_an_unreachable_node_keeps_the_run_open_and_one_removed_from_the_inventory_does_not() -> None:
    gone = Problem("not_in_inventory", "gone", "w", "f")
    settled, begun = assess_nodes(three_node_run(), {}, {"n1": UNREACHABLE, "n2": gone})
    assert {node: record.state for node, record in settled.items()} == {"n1": "unknown", "n2": "skipped"}
    assert begun == frozenset()


def test_remaining_images_are_those_that_untouched_nodes_lack() -> None:
    run_spec, image = (
        three_node_run(),
        an_order("n1").image.model_copy(update={"reference": f"registry.lab/x@{a_digest('new')}"}),
    )
    orders = {node: {SEAT: seats[SEAT].model_copy(update={"image": image})} for node, seats in run_spec.orders.items()}
    run_spec = run_spec.model_copy(update={"orders": orders})
    lacks = a_node("n1", seats=(a_running_seat(1, "r0", "committed"),))
    holds = lacks.model_copy(update={"images": (a_digest("new"),)})
    begun = a_node("n1", seats=(a_running_seat(1, "r1", "switching"),))

    def remaining(**probed: NodeFacts | Problem) -> list[OrderedImage]:
        return remaining_images(run_spec, assess_nodes(run_spec, {}, probed), probed)

    assert remaining(n1=holds, n2=lacks, n3=lacks) == [image]
    assert remaining(n1=begun, n2=UNREACHABLE, n3=holds) == []


def test_the_last_final_record_of_a_node_counts() -> None:
    recorded: list[RecordedEvent] = []

    def write(event: Event) -> None:
        recorded.append(RecordedEvent(seq=len(recorded) + 1, at=NOW, event=event))

    recorded_states: list[tuple[str, NodeState]] = [
        ("n1", "unknown"),
        ("n1", "committed"),
        ("n2", "unknown"),
        ("n3", "failed"),
    ]
    for node, state in recorded_states:
        report_records([NodeRecord(node=node, state=state)], write)
    write(Event(phase="report", kind="note", text="stopping"))
    assert {node: record.state for node, record in final_records(recorded).items()} == {
        "n1": "committed",
        "n3": "failed",
    }


@pytest.mark.parametrize(
    ("ends", "code", "still"),
    [
        (("committed",), "", False),
        (("committed", "unknown"), "", True),
        (("committed", "unreachable"), "too_many_failures", True),
        (("committed", "committed", "committed", "unreachable"), "", False),
        (("unknown", "not_started"), "too_many_failures", True),
        (("rolled_back", "not_started"), "too_many_failures", False),
        (("committed", "not_started"), "interrupted", True),
    ],
)
def test_a_run_is_open_if_interrupted_or_with_nodes_of_unknown_state(
    ends: tuple[NodeState, ...], code: str, still: bool
) -> None:
    stopped = Problem(code, "w", "w", "f") if code else None
    nodes = tuple(NodeRecord(node=f"n{number}", state=state) for number, state in enumerate(ends, 1))
    report = RolloutReport(lab="demo", run="r1", started_at=NOW, ended_at=NOW, nodes=nodes, stopped=stopped)
    assert is_open(three_node_run(), report) is still
    assert is_open(three_node_run(), None)


def a_fleet(tmp_path: Path, ends: dict[str, dict[str, NodeState]] | None = None) -> FakeFleet:
    return FakeFleet(tmp_path, ends).add("n1", "n2", "n3", generation=1)


def test_resume_asks_a_lost_node_again_and_runs_the_remaining_waves(tmp_path: Path) -> None:
    """The first controller got no result of n1's switch; n1 had completed it on its own."""
    fleet, run_spec = a_fleet(tmp_path), three_node_run().with_claim(a_claim())
    fleet.claim(dict.fromkeys(("n1", "n2", "n3"), a_claim()), "")
    fleet.switch({"n1": run_spec.orders["n1"]})
    run_spec = run_spec.with_claim(a_claim(fence=2))
    outcome = resume(run_spec, assess_nodes(run_spec, {}, fleet.probe(run_spec.nodes)), fleet, a_context())
    assert states(outcome) == {"n1": "committed", "n2": "committed", "n3": "committed"}
    assert fleet.claims_by_node() == dict.fromkeys(("n1", "n2", "n3"))
    assert [asked for asked in fleet.calls if asked[0] in {"stage", "switch"}][1:] == [
        ("switch", ("n1",)),
        ("stage", ("n2",)),
        ("switch", ("n2",)),
        ("stage", ("n3",)),
        ("switch", ("n3",)),
    ]


def test_failures_before_the_interruption_count_against_the_budget(tmp_path: Path) -> None:
    fleet, run_spec = a_fleet(tmp_path), three_node_run().with_claim(a_claim())
    ended = {"n1": NodeRecord(node="n1", state="rolled_back")}
    outcome = resume(run_spec, assess_nodes(run_spec, ended, fleet.probe(("n2", "n3"))), fleet, a_context())
    assert states(outcome) == {"n1": "rolled_back", "n2": "not_started", "n3": "not_started"}
    assert outcome.stopped is not None
    assert fleet.claims_by_node() == dict.fromkeys(("n1", "n2", "n3"))


@pytest.mark.parametrize(("allowed", "others"), [(0, "not_started"), (1, "committed")])
def test_a_node_unreachable_at_resume_counts_unless_allowed(tmp_path: Path, allowed: int, others: NodeState) -> None:
    fleet, run_spec = a_fleet(tmp_path, {"reach": {"n1": "unreachable"}}), three_node_run().with_claim(a_claim())
    standing = assess_nodes(run_spec, {}, fleet.probe(run_spec.nodes))
    outcome = resume(run_spec.with_allowance(standing.settled.values(), allowed), standing, fleet, a_context())
    assert states(outcome) == {"n1": "unknown", "n2": others, "n3": others}


def test_resume_skips_a_node_that_another_run_changed_and_continues_with_the_others(tmp_path: Path) -> None:
    fleet, run_spec = a_fleet(tmp_path), three_node_run().with_claim(a_claim())
    fleet.add("n4", generation=1)
    fleet._write("n2", fleet.read("n2") | {"generation": 7, "run": "r9"})
    outcome = resume(run_spec, assess_nodes(run_spec, {}, fleet.probe(run_spec.nodes)), fleet, a_context())
    assert states(outcome) == {"n1": "committed", "n2": "stale", "n3": "committed"}
    assert outcome.records[1].problems[0].code == "stale_plan"
    assert fleet.read("n2")["generation"] == 7


def test_a_node_that_committed_without_its_last_journal_entry_is_unchanged(tmp_path: Path) -> None:
    """Its job was killed between the commit and the journal entry for it: the node refuses to switch again."""
    fleet, run_spec = a_fleet(tmp_path, {"switch": {"n1": "failed"}}), three_node_run().with_claim(a_claim())
    fleet._write("n1", fleet.read("n1") | {"run": "r1", "state": "verifying"})
    standing = assess_nodes(run_spec, {}, fleet.probe(run_spec.nodes))
    fleet._write("n1", fleet.read("n1") | {"run": "r1", "image": "new"})
    arriving = FakeFleet(tmp_path, {"switch": {"n1": "failed"}}, at=lambda moment: _commit_before_probe(fleet, moment))
    outcome = resume(run_spec, standing, arriving, a_context())
    assert states(outcome) == {"n1": "unchanged", "n2": "committed", "n3": "committed"}


def _commit_before_probe(fleet: FakeFleet, moment: str) -> None:
    if moment == "probe before n1":
        fleet._write("n1", fleet.read("n1") | {"generation": 2, "run": "r9", "state": "committed", "image": "new"})


def test_a_stop_request_during_resume_still_completes_changes_that_had_begun(tmp_path: Path) -> None:
    said = set[str]()
    fleet, run_spec = (
        FakeFleet(tmp_path, at=said.add).add("n1", "n2", "n3", generation=1),
        three_node_run().with_claim(a_claim()),
    )
    fleet._write("n1", fleet.read("n1") | {"run": "r1", "state": "switching"})
    standing = assess_nodes(run_spec, {}, fleet.probe(run_spec.nodes))
    outcome = resume(run_spec, standing, fleet, a_context(stop=lambda: "claim after n1" in said))
    assert states(outcome) == {"n1": "committed", "n2": "not_started", "n3": "not_started"}
    assert outcome.stopped is not None
    assert outcome.stopped.code == "interrupted"


def test_resume_does_not_release_an_unreachable_node(tmp_path: Path) -> None:
    """It may still run a job of this run."""
    fleet, run_spec = a_fleet(tmp_path, {"reach": {"n1": "unreachable"}}), three_node_run().with_claim(a_claim())
    resume(run_spec, assess_nodes(run_spec, {}, fleet.probe(run_spec.nodes)), fleet, a_context())
    assert [nodes for act, nodes in fleet.calls if act == "release"] == [("n2", "n3")]


def test_resume_outside_the_maintenance_window_completes_what_had_begun_and_defers_the_rest(tmp_path: Path) -> None:
    fleet, run_spec = a_fleet(tmp_path), three_node_run().with_claim(a_claim())
    fleet._write("n1", fleet.read("n1") | {"run": "r1", "state": "switching"})
    closed = Problem("outside_window", "outside the maintenance window", "lab.yml", "wait")
    standing = assess_nodes(run_spec, {}, fleet.probe(run_spec.nodes))
    outcome = resume(run_spec, standing, fleet, a_context(), gate=lambda: closed)
    assert states(outcome) == {"n1": "committed", "n2": "deferred", "n3": "deferred"}


# Documents of an earlier release: one seat a node, and records without `seats`.

EARLIER = json.loads((CASES / "one_seat_a_node.json").read_text())


def read(model: type[DocumentT], name: str) -> DocumentT:
    """Read a document as from the journal of a run."""
    return model.model_validate_json(json.dumps(EARLIER[name]))


def test_a_run_of_an_earlier_release_is_read_with_its_orders_by_seat() -> None:
    run_spec = read(RunSpec, "run_spec")
    assert run_spec.schema_ == "provisioner/run_spec/2"
    assert {node: list(orders) for node, orders in run_spec.orders.items()} == {
        f"n{number}": [SEAT] for number in range(1, 5)
    }
    assert run_spec.orders["n1"][SEAT].expects == 1
    assert {record.node: record.state for record in run_spec.settled} == {"n3": "unreachable", "n4": "unchanged"}
    assert RunSpec.model_validate_json(run_spec.model_dump_json()) == run_spec
    rollback = read(RunSpec, "rollback")
    assert [(order.to, order.expects) for order in rollback.back["n1"].values()] == [(1, 2)]


def test_a_run_is_written_with_each_document_once_and_read_with_the_files_of_its_seats() -> None:
    bundles = [DOCUMENTS.bundle(a_seat(name=name, node=name), a_locked_image()) for name in ("ml_a", "ml_b")]
    orders = {one.seat.node: {one.seat.name: build_order(one, a_lab(), "r1", ca=None)} for one in bundles}
    steps = tuple(Step(node=node, seat=node, action="create", why="new") for node in orders)
    plan = Plan(lab="demo", image="t", steps=steps)
    run_spec = build_run_spec("r1", plan, orders, Rules(), NOW)
    written = json.loads(run_spec.model_dump_json())
    assert list(written["documents"]) == [bundles[0].document.digest]
    again = RunSpec.model_validate_json(run_spec.model_dump_json())
    assert again == run_spec
    assert [again.orders[one.seat.node][one.seat.name].files for one in bundles] == [one.files for one in bundles]


@pytest.mark.parametrize("recorded", [True, False])
def test_a_run_of_an_earlier_release_is_resumed(tmp_path: Path, recorded: bool) -> None:
    """n1 had ended. Without a record of it the node is asked, and was not begun."""
    fleet = FakeFleet(tmp_path).add("n1", "n2", generation=1)
    entries = [RecordedEvent.model_validate(EARLIER["event"])] if recorded else []
    run_spec = read(RunSpec, "run_spec").with_claim(a_claim(fence=2))
    state = assess_nodes(run_spec, final_records(entries), fleet.probe(run_spec.nodes))
    outcome = resume(run_spec, state, fleet, a_context())
    assert states(outcome) == {"n1": "committed", "n2": "committed", "n3": "unreachable", "n4": "unchanged"}
    switched = [nodes for act, nodes in fleet.calls if act == "switch"]
    assert switched == ([("n2",)] if recorded else [("n1",), ("n2",)])
    assert fleet.claims_by_node() == {"n1": None, "n2": None}


def test_a_rollback_of_an_earlier_release_is_resumed(tmp_path: Path) -> None:
    fleet, run_spec = FakeFleet(tmp_path).add("n1", generation=2), read(RunSpec, "rollback").with_claim(a_claim("r2"))
    outcome = resume(run_spec, assess_nodes(run_spec, {}, fleet.probe(run_spec.nodes)), fleet, a_context())
    assert (states(outcome), fleet.read("n1")["generation"]) == ({"n1": "committed"}, 1)


def test_plan_and_report_of_an_earlier_release_are_read() -> None:
    plan, report = read(Plan, "plan"), read(RolloutReport, "report")
    assert [(step.node, step.action, step.person) for step in plan.steps][:2] == [
        ("n1", "update", ""),
        ("n2", "update", ""),
    ]
    assert (plan.places, plan.unplaced, plan.has_many_seats) == ({}, {}, False)
    assert (report.seat_counts, report.done) == ({"committed": 1, "deferred": 1}, False)
    assert is_open(read(RunSpec, "run_spec"), report) is False


# Several seats on a node.


def test_only_the_seats_that_are_not_final_are_asked_again(tmp_path: Path) -> None:
    """ann had ended, bob had begun, eve had not; dan was to be stopped."""
    seats = ("ml_ann", "ml_bob", "ml_eve", "ml_dan")
    fleet = FakeFleet(tmp_path).add("n1", generation=1, seats=seats)
    steps = [*a_plan({"n1": "update"}, generation=1, seats=seats[:3]).steps]
    steps.append(Step(node="n1", seat="ml_dan", action="stop", why="", generation=1))
    plan = Plan(lab="demo", image=None, steps=tuple(steps))
    run_spec = build_run_spec("r1", plan, orders_of("n1", seats=seats[:3]), Rules(), NOW).with_claim(a_claim())
    for seat, state in (("ml_ann", "rolled_back"), ("ml_bob", "switching"), ("ml_eve", "staged")):
        fleet._write("n1", fleet.read("n1", seat) | {"run": "r1", "state": state}, seat)
    ann = SeatRecord(seat="ml_ann", state="rolled_back", generation=1)
    ended = {"n1": build_node_record("n1", [ann])}
    run_spec = run_spec.with_claim(a_claim(fence=2)).model_copy(update={"budget": 1})
    outcome = resume(run_spec, assess_nodes(run_spec, ended, fleet.probe(("n1",))), fleet, a_context())
    assert fleet.seat_calls == [
        ("switch", "n1", ("ml_bob",)),
        ("stage", "n1", ("ml_eve",)),
        ("switch", "n1", ("ml_dan", "ml_eve")),
    ]
    assert {seat.seat: seat.state for seat in outcome.records[0].seats} == {
        "ml_ann": "rolled_back",
        "ml_bob": "committed",
        "ml_eve": "committed",
        "ml_dan": "committed",
    }
    assert fleet.claims_by_node() == {"n1": None}
