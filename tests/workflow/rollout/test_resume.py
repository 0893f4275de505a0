"""What is left of a run that was cut off, judged by what nodes say."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from provisioner.domain.rollout.order import OrderedImage
from provisioner.domain.rollout.report import NodeRecord, NodeState, RolloutReport
from provisioner.domain.rollout.run_spec import Rules, RunSpec, build_run_spec
from provisioner.domain.values.event import Event, Recorded
from provisioner.domain.values.node import NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from provisioner.workflow.rollout.resume import heard, is_open, left_to_pull, resume, stand
from provisioner.workflow.rollout.waves import tell
from tests.builders import a_digest, a_node
from tests.workflow.fake_fleet import SEAT, UNREACHABLE, FakeFleet, a_claim, a_plan, an_order
from tests.workflow.rollout.test_run import states

NOW = datetime(2026, 11, 26, tzinfo=UTC)


def of_three(generation: int = 1) -> RunSpec:
    nodes = ("n1", "n2", "n3")
    plan = a_plan(dict.fromkeys(nodes, "update"), generation=generation)
    return build_run_spec("r1", plan, {node: an_order(node) for node in nodes}, Rules(("1", "2", "3")), NOW)


def a_running(generation: int, run: str, state: str, image: str = "other") -> RunningSeat:
    return RunningSeat(name=SEAT, generation=generation, image=image, run=run, state=state)


@pytest.mark.parametrize(
    ("seat", "verdict"),
    [
        (a_running(1, "r0", "committed"), "untouched"),
        (a_running(1, "r1", "staged"), "untouched"),
        (a_running(1, "r1", "switching"), "begun"),
        (a_running(1, "r1", "verifying"), "begun"),
        (a_running(1, "r1", "rolling_back"), "begun"),
        (a_running(1, "r1", "rolled_back"), "begun"),
        (a_running(1, "r1", "needs_attention"), "begun"),
        (a_running(2, "r1", "committed"), "begun"),
        (a_running(2, "r2", "committed"), "stale"),
        (a_running(0, "r2", "removed"), "stale"),
        (None, "stale"),
        (a_running(2, "r2", "committed", image="new"), "unchanged"),
    ],
)
def test_how_a_node_stands(seat: RunningSeat | None, verdict: str) -> None:
    probed = {"n1": a_node("n1", seats=(seat,) if seat else ())}
    known, begun = stand(of_three(), {}, probed)
    found = known["n1"].state if "n1" in known else "begun" if begun else "untouched"
    assert found == verdict


def test_a_node_that_does_not_answer_keeps_the_run_open_and_one_that_is_gone_from_the_inventory_does_not() -> None:
    gone = Problem("not_in_inventory", "gone", "w", "f")
    known, begun = stand(of_three(), {}, {"n1": UNREACHABLE, "n2": gone})
    assert {node: record.state for node, record in known.items()} == {"n1": "unknown", "n2": "skipped"}
    assert begun == ()


def test_what_is_still_to_be_pulled_is_what_nodes_lack_that_the_run_has_not_come_to() -> None:
    what, image = of_three(), an_order("n1").image.model_copy(update={"reference": f"registry.lab/x@{a_digest('new')}"})
    orders = {node: order.model_copy(update={"image": image}) for node, order in what.orders.items()}
    what = what.model_copy(update={"orders": orders})
    lacks = a_node("n1", seats=(a_running(1, "r0", "committed"),))
    holds = lacks.model_copy(update={"images": (a_digest("new"),)})
    begun = a_node("n1", seats=(a_running(1, "r1", "switching"),))

    def left(**probed: NodeFacts | Problem) -> list[OrderedImage]:
        return left_to_pull(what, stand(what, {}, probed), probed)

    assert left(n1=holds, n2=lacks, n3=lacks) == [image]
    assert left(n1=begun, n2=UNREACHABLE, n3=holds) == []


def test_the_last_word_that_was_written_down_counts_but_not_one_of_doubt() -> None:
    recorded: list[Recorded] = []

    def write(event: Event) -> None:
        recorded.append(Recorded(seq=len(recorded) + 1, at=NOW, event=event))

    told: list[tuple[str, NodeState]] = [("n1", "unknown"), ("n1", "committed"), ("n2", "unknown"), ("n3", "failed")]
    for node, state in told:
        tell([NodeRecord(node=node, state=state)], write)
    write(Event(phase="report", kind="note", text="stopping"))
    assert {node: record.state for node, record in heard(recorded).items()} == {"n1": "committed", "n3": "failed"}


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
def test_which_runs_are_open(ends: tuple[NodeState, ...], code: str, still: bool) -> None:
    stopped = Problem(code, "w", "w", "f") if code else None
    nodes = tuple(NodeRecord(node=f"n{number}", state=state) for number, state in enumerate(ends, 1))
    report = RolloutReport(lab="demo", run="r1", started_at=NOW, ended_at=NOW, nodes=nodes, stopped=stopped)
    assert is_open(of_three(), report) is still
    assert is_open(of_three(), None)


def a_crew(tmp_path: Path, ends: dict[str, dict[str, NodeState]] | None = None) -> FakeFleet:
    return FakeFleet(tmp_path, ends).add("n1", "n2", "n3", generation=1)


def test_a_node_that_was_lost_is_asked_again_and_the_waves_go_on(tmp_path: Path) -> None:
    """The first controller heard nothing of n1's switch; n1 had come to its end by itself."""
    fleet, what = a_crew(tmp_path), of_three().with_claim(a_claim())
    fleet.claim(a_claim(), ["n1", "n2", "n3"], "")
    fleet.switch({"n1": what.orders["n1"]})
    what = what.with_claim(a_claim(fence=2))
    outcome = resume(what, stand(what, {}, fleet.probe(what.nodes)), fleet, lambda _: None)
    assert states(outcome) == {"n1": "committed", "n2": "committed", "n3": "committed"}
    assert fleet.alive() == dict.fromkeys(("n1", "n2", "n3"))
    assert [asked for asked in fleet.asked if asked[0] in {"stage", "switch"}][1:] == [
        ("switch", ("n1",)),
        ("stage", ("n2",)),
        ("switch", ("n2",)),
        ("stage", ("n3",)),
        ("switch", ("n3",)),
    ]


def test_what_went_wrong_before_counts_after(tmp_path: Path) -> None:
    fleet, what = a_crew(tmp_path), of_three().with_claim(a_claim())
    ended = {"n1": NodeRecord(node="n1", state="rolled_back")}
    outcome = resume(what, stand(what, ended, fleet.probe(("n2", "n3"))), fleet, lambda _: None)
    assert states(outcome) == {"n1": "rolled_back", "n2": "not_started", "n3": "not_started"}
    assert outcome.stopped is not None
    assert fleet.alive() == dict.fromkeys(("n1", "n2", "n3"))


@pytest.mark.parametrize(("allowed", "others"), [(0, "not_started"), (1, "committed")])
def test_a_node_that_is_away_now_counts_unless_it_is_allowed_for(
    tmp_path: Path, allowed: int, others: NodeState
) -> None:
    fleet, what = a_crew(tmp_path, {"reach": {"n1": "unreachable"}}), of_three().with_claim(a_claim())
    standing = stand(what, {}, fleet.probe(what.nodes))
    outcome = resume(what.sparing(standing.known.values(), allowed), standing, fleet, lambda _: None)
    assert states(outcome) == {"n1": "unknown", "n2": others, "n3": others}


def test_a_node_that_has_moved_is_left_alone_and_the_others_go_on(tmp_path: Path) -> None:
    fleet, what = a_crew(tmp_path), of_three().with_claim(a_claim())
    fleet.add("n4", generation=1)
    fleet._write("n2", fleet.read("n2") | {"generation": 7, "run": "r9"})
    outcome = resume(what, stand(what, {}, fleet.probe(what.nodes)), fleet, lambda _: None)
    assert states(outcome) == {"n1": "committed", "n2": "stale", "n3": "committed"}
    assert outcome.records[1].problems[0].code == "stale_plan"
    assert fleet.read("n2")["generation"] == 7


def test_a_node_that_had_arrived_but_for_its_last_line_has_arrived(tmp_path: Path) -> None:
    """Its job was killed between the moment of the commit and the word for it: it refuses to switch again."""
    fleet, what = a_crew(tmp_path, {"switch": {"n1": "failed"}}), of_three().with_claim(a_claim())
    fleet._write("n1", fleet.read("n1") | {"run": "r1", "state": "verifying"})
    standing = stand(what, {}, fleet.probe(what.nodes))
    fleet._write("n1", fleet.read("n1") | {"run": "r1", "image": "new"})
    arriving = FakeFleet(tmp_path, {"switch": {"n1": "failed"}}, at=lambda moment: _arrive(fleet, moment))
    outcome = resume(what, standing, arriving, lambda _: None)
    assert states(outcome) == {"n1": "unchanged", "n2": "committed", "n3": "committed"}


def _arrive(fleet: FakeFleet, moment: str) -> None:
    if moment == "probe before n1":
        fleet._write("n1", fleet.read("n1") | {"generation": 2, "run": "r9", "state": "committed", "image": "new"})


def test_a_stop_while_resuming_still_follows_what_had_begun(tmp_path: Path) -> None:
    said = set[str]()
    fleet, what = FakeFleet(tmp_path, at=said.add).add("n1", "n2", "n3", generation=1), of_three().with_claim(a_claim())
    fleet._write("n1", fleet.read("n1") | {"run": "r1", "state": "switching"})
    standing = stand(what, {}, fleet.probe(what.nodes))
    outcome = resume(what, standing, fleet, lambda _: None, stop_requested=lambda: "claim after n1" in said)
    assert states(outcome) == {"n1": "committed", "n2": "not_started", "n3": "not_started"}
    assert outcome.stopped is not None
    assert outcome.stopped.code == "interrupted"


def test_a_node_that_does_not_answer_is_not_let_go(tmp_path: Path) -> None:
    """It may be at work for this very run."""
    fleet, what = a_crew(tmp_path, {"reach": {"n1": "unreachable"}}), of_three().with_claim(a_claim())
    resume(what, stand(what, {}, fleet.probe(what.nodes)), fleet, lambda _: None)
    assert [nodes for act, nodes in fleet.asked if act == "release"] == [("n2", "n3")]


def test_outside_of_the_labs_hours_what_had_begun_comes_to_its_end_and_no_more_begins(tmp_path: Path) -> None:
    fleet, what = a_crew(tmp_path), of_three().with_claim(a_claim())
    fleet._write("n1", fleet.read("n1") | {"run": "r1", "state": "switching"})
    closed = Problem("outside_window", "no hour for changes", "lab.yml", "wait")
    standing = stand(what, {}, fleet.probe(what.nodes))
    outcome = resume(what, standing, fleet, lambda _: None, gate=lambda: closed)
    assert states(outcome) == {"n1": "committed", "n2": "deferred", "n3": "deferred"}
