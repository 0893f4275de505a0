"""Publications in a run: after the seats of their node, in the same wave, counted by the budget, and resumed."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from provisioner.domain.rollout.plan import Action, Plan, Step
from provisioner.domain.rollout.report import NodeRecord, NodeState, RolloutReport, SeatRecord
from provisioner.domain.rollout.run_spec import Rules, RunSpec, build_run_spec
from provisioner.domain.self_service.config import Published, build_published
from provisioner.domain.self_service.publication import (
    SELF_SERVICE_NAME,
    Publication,
    PublicationAction,
    build_publication,
    build_withdrawal,
)
from provisioner.domain.values.problem import Problem
from provisioner.workflow.rollout.publications import publication_orders
from provisioner.workflow.rollout.resume import assess_nodes, is_open, resume
from provisioner.workflow.rollout.run import Outcome, run_waves
from tests.builders import a_lab, a_node, a_uuid, publication_source
from tests.domain.seats import DOCUMENTS
from tests.workflow.fake_fleet import SEAT, FakeFleet, a_claim, a_context, a_plan, orders_of, reported

BEGAN = datetime(2026, 11, 26, tzinfo=UTC)
CREATE: Action = "create"


def published(node: str, group: str = "students") -> Published:
    lab = a_lab(self_service={"unix_group": group})
    found = build_published(publication_source(lab, a_node(node)), DOCUMENTS)
    assert isinstance(found, Published)
    return found


def a_run(seats: Sequence[str], nodes: Sequence[str]) -> RunSpec:
    """Return a run that changes a seat on some nodes, and publishes on some."""
    found = {node: published(node) for node in nodes}
    publications = tuple(build_publication(a_node(node), one.config, "0.2") for node, one in found.items())
    plan = a_plan(dict.fromkeys(seats, CREATE)).model_copy(update={"publications": publications})
    orders = publication_orders(publications, found, "r1", "0.2")
    return build_run_spec(
        "r1", plan, orders_of(*seats), Rules(("1", "100%"), prefetch=False), BEGAN, publications=orders
    ).with_claim(a_claim())


def withdrawing(fleet: FakeFleet, *nodes: str) -> RunSpec:
    facts = [a_node(node, self_service=fleet.self_service(node)) for node in nodes]
    publications = tuple(build_withdrawal(found, "because") for found in facts)
    plan = Plan(lab="demo", image=None, steps=(), publications=publications)
    orders = publication_orders(publications, {}, "r2", "0.2")
    spec = build_run_spec("r2", plan, {}, Rules(), BEGAN, publications=orders)
    return spec.with_claim(a_claim("r2", fence=2))


def ended(outcome: Outcome) -> dict[str, tuple[str, str]]:
    """Node -> its state, and how its environment ended."""
    return {
        record.node: (record.state, "".join(one.state for one in record.environments.values()))
        for record in outcome.records
    }


def acts(fleet: FakeFleet) -> list[tuple[str, tuple[str, ...]]]:
    return [call for call in fleet.calls if call[0] != "probe"]


def test_a_node_is_published_after_its_seats_and_in_the_same_wave(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path).add("n1", "n2").add("n3", seats=())
    outcome = run_waves(a_run(["n1", "n2"], ["n1", "n2", "n3"]), fleet, a_context())
    assert acts(fleet) == [
        ("claim", ("n1", "n2", "n3")),
        ("stage", ("n1",)),
        ("switch", ("n1",)),
        ("publish", ("n1",)),
        ("stage", ("n2",)),
        ("switch", ("n2",)),
        ("publish", ("n2", "n3")),
    ]
    assert ended(outcome) == dict.fromkeys(("n1", "n2", "n3"), ("committed", "published"))
    first, _, last = outcome.records
    assert first.access is not None
    assert (first.counts, last.counts, last.seats) == ({"committed": 1}, {}, ())
    assert fleet.claims_by_node() == dict.fromkeys(("n1", "n2", "n3"))
    assert fleet.self_service("n3") == reported(a_run([], ["n3"]).publications["n3"].for_node())


def test_a_run_claims_self_service_beside_the_seats_that_it_changes_and_no_others() -> None:
    claim = a_claim().model_copy(update={"scope": "seats"})
    spec = a_run(["n1"], ["n1", "n2"]).with_claim(claim)
    assert {node: held.seats for node, held in spec.claims.items()} == {
        "n1": ("demo-student", SELF_SERVICE_NAME),
        "n2": (SELF_SERVICE_NAME,),
    }
    assert spec.publications["n1"].claim == claim.of_seats([SELF_SERVICE_NAME])
    assert not spec.claims["n2"].covers("demo_ann")


def test_a_failed_publication_counts_as_a_failed_node(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path, {"publish": {"n1": "failed"}}).add("n1", "n2")
    outcome = run_waves(a_run(["n1", "n2"], ["n1", "n2"]), fleet, a_context())
    assert ended(outcome) == {"n1": ("failed", "failed"), "n2": ("not_started", "not_started")}
    assert outcome.stopped is not None
    assert outcome.stopped.code == "too_many_failures"
    assert outcome.records[0].counts == {"committed": 1}


@pytest.mark.parametrize(
    ("end", "state", "counts"),
    [("committed", "published", {"committed": 1}), ("deferred", "deferred", {"deferred": 1})],
)
def test_a_gpu_joins_the_pool_only_once_the_seat_that_had_it_is_stopped(
    tmp_path: Path, end: NodeState, state: str, counts: dict[str, int]
) -> None:
    fleet = FakeFleet(tmp_path, {"remove": {"n1": end}}).add("n1", generation=1)
    spec = a_run([], ["n1"])
    gpu = a_uuid("n1/0")
    step = Step(node="n1", seat=SEAT, action="stop", why="", generation=1, gpus=(gpu,))
    growing = spec.plan.publications[0].model_copy(update={"pool": (gpu,)})
    plan = spec.plan.model_copy(update={"steps": (step,), "publications": (growing,)})
    outcome = run_waves(spec.model_copy(update={"plan": plan}), fleet, a_context())
    (record,) = outcome.records
    assert (record.environments["default"].state, record.counts) == (state, counts)
    assert [problem.code for problem in record.problems] == (["gpu_held"] if state == "deferred" else [])
    assert (fleet.self_service("n1") is None) == (state == "deferred")


def test_what_is_published_already_and_what_cannot_be_is_in_the_report(tmp_path: Path) -> None:
    problem = Problem("self_service_elsewhere", "another lab has it", "why", "fix")
    left: dict[str, tuple[PublicationAction, tuple[Problem, ...]]] = {
        "n1": ("keep", ()),
        "n2": ("skip", (problem,)),
        "n3": ("defer", (problem,)),
    }
    publications = tuple(
        Publication(node=node, action=action, why="", environments={"default": "0" * 12}, problems=problems)
        for node, (action, problems) in left.items()
    )
    plan = Plan(lab="demo", image=None, steps=(), publications=publications)
    outcome = run_waves(build_run_spec("r1", plan, {}, Rules(), BEGAN), FakeFleet(tmp_path), a_context())
    assert ended(outcome) == {
        "n1": ("unchanged", "unchanged"),
        "n2": ("skipped", "skipped"),
        "n3": ("deferred", "deferred"),
    }
    assert outcome.records[1].problems == (problem,)


def test_removal_of_self_service_is_carried_out_and_reported(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path).add("n1", seats=())
    run_waves(a_run([], ["n1"]), fleet, a_context())
    outcome = run_waves(withdrawing(fleet, "n1"), fleet, a_context())
    assert ended(outcome) == {"n1": ("committed", "removed")}
    assert fleet.self_service("n1") is None


def test_a_run_that_was_stopped_between_seats_and_self_service_is_resumed(tmp_path: Path) -> None:
    fleet, spec = FakeFleet(tmp_path).add("n1", "n2"), a_run(["n1", "n2"], ["n1", "n2"])

    def stop() -> bool:
        return ("switch", ("n1",)) in fleet.calls

    outcome = run_waves(spec, fleet, a_context(stop=stop))
    assert ended(outcome) == {"n1": ("not_started", "not_started"), "n2": ("not_started", "not_started")}
    report = RolloutReport(lab="demo", run="r1", started_at=BEGAN, ended_at=BEGAN, stopped=outcome.stopped)
    assert is_open(spec, report)
    read = RunSpec.model_validate_json(spec.model_dump_json()).with_claim(a_claim(fence=2))
    assert read.publications["n1"].documents == spec.publications["n1"].documents
    state = assess_nodes(read, {}, fleet.probe(["n1", "n2"]))
    assert ended(resume(read, state, fleet, a_context())) == dict.fromkeys(("n1", "n2"), ("committed", "published"))
    assert fleet.claims_by_node() == dict.fromkeys(("n1", "n2"))
    state = assess_nodes(read, {}, fleet.probe(["n1", "n2"]))
    again = resume(read.with_claim(a_claim(fence=3)), state, fleet, a_context())
    assert {record.node: record.environments["default"].state for record in again.records} == {
        "n1": "unchanged",
        "n2": "unchanged",
    }


@pytest.mark.parametrize("is_removed", [False, True])
def test_an_interrupted_removal_is_repeated(tmp_path: Path, is_removed: bool) -> None:
    fleet = FakeFleet(tmp_path).add("n1", seats=())
    run_waves(a_run([], ["n1"]), fleet, a_context())
    spec = withdrawing(fleet, "n1")
    if is_removed:
        (tmp_path / "n1/self_service.json").unlink()
    state = assess_nodes(spec, {}, fleet.probe(["n1"]))
    assert ended(resume(spec, state, fleet, a_context())) == {"n1": ("committed", "removed")}
    assert fleet.self_service("n1") is None


def test_self_service_that_another_run_has_published_since_is_left_to_it(tmp_path: Path) -> None:
    fleet, spec = FakeFleet(tmp_path).add("n1", seats=()), a_run([], ["n1"])
    other = publication_orders(spec.plan.publications, {"n1": published("n1", "others")}, "r0", "0.2")["n1"]
    (tmp_path / "n1/self_service.json").write_text(json.dumps(other.for_node()))
    state = assess_nodes(spec, {}, fleet.probe(["n1"]))
    assert [(found.state, found.problems[0].code) for found in state.settled["n1"].seats] == [("stale", "stale_plan")]
    outcome = resume(spec.with_claim(a_claim(fence=2)), state, fleet, a_context())
    assert ended(outcome) == {"n1": ("stale", "stale")}


def test_a_node_that_cannot_be_probed_keeps_the_run_open(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path, {"reach": {"n1": "unreachable"}}).add("n1", seats=())
    spec = a_run([], ["n1"])
    state = assess_nodes(spec, {}, fleet.probe(["n1"]))
    assert state.settled["n1"].state == "unknown"


@pytest.mark.parametrize("stale", [frozenset({"n1"}), frozenset[str]()])
def test_a_node_that_changed_since_the_review_is_not_published(tmp_path: Path, stale: frozenset[str]) -> None:
    fleet, spec = FakeFleet(tmp_path).add("n1", seats=()), a_run([], ["n1"])
    spec = build_run_spec("r1", spec.plan, {}, Rules(), BEGAN, stale=stale, publications=spec.publications)
    run_waves(spec.with_claim(a_claim()), fleet, a_context())
    assert (fleet.self_service("n1") is None) == bool(stale)


def test_documents_are_in_a_run_spec_once() -> None:
    spec = a_run([], [f"n{number}" for number in range(20)])
    dumped = json.loads(spec.model_dump_json())
    assert len(dumped["documents"]) == 1
    assert dumped["publications"]["n7"]["documents"] == {"default": next(iter(dumped["documents"]))}


def test_a_report_of_an_earlier_release_has_no_environments() -> None:
    record = NodeRecord(node="n1", state="committed", seats=(SeatRecord(seat="s", state="committed"),))
    old = json.loads(record.model_dump_json())
    del old["environments"]
    assert NodeRecord.model_validate(old) == record


def test_no_more_nodes_pull_for_self_service_at_once_than_allowed(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(1, 6)]
    fleet = FakeFleet(tmp_path)
    for name in names:
        fleet.add(name, seats=())
    spec = a_run([], names).model_copy(update={"pulls": 2, "waves": (tuple(names),)})
    run_waves(spec, fleet, a_context())
    assert [nodes for act, nodes in fleet.calls if act == "publish"] == [("n1", "n2"), ("n3", "n4"), ("n5",)]
