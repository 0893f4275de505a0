"""Whatever one node sends harms the row of this node alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.ansible.play import HostEvent
from provisioner.adapters.ansible.prepare import Preparer
from provisioner.adapters.ansible.results import parse_claim_problem, parse_facts, parse_progress, parse_record
from provisioner.adapters.ansible.settings import Settings
from provisioner.adapters.lab.compatibility_data import load
from provisioner.console.progress import event_line
from provisioner.domain.rollout.preparation import NodePreparation, PrepareOrder, RegistryAccess
from provisioner.domain.values.claim import MAX_FENCE, Claim, implausible_fences, next_fence
from provisioner.domain.values.event import Event
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem
from provisioner.workflow.rollout.plan import PlanInputs, build_plan
from tests.adapters.ansible.lies import VALUES, valid_facts, with_lies
from tests.builders import a_lab, a_lock, a_node
from tests.costly import costly
from tests.domain.seats import TEMPLATES
from tests.workflow.fake_fleet import FakeHost

HONEST = valid_facts().model_dump(mode="json")
CLAIM = Claim(run="r1", lab="demo", holder="ann@control1", since="2026-11-26T21:00:00+00:00", fence=1)
DEEP: list[Any] = []
for _ in range(900):
    DEEP = [DEEP]


def probe_result(facts: Any, **over: Any) -> HostEvent:
    return HostEvent("lying", "ok", {"facts": facts, "clock": 0.0, **over})


def read_facts(facts: Any) -> NodeFacts | Problem:
    return parse_facts(probe_result(facts))


@pytest.mark.parametrize(
    "facts",
    [
        None,
        [],
        "facts",
        HONEST | {"fence": 10**4299},
        HONEST | {"fence": MAX_FENCE + 1},
        HONEST | {"fence": -1},
        HONEST | {"hostname": "\ud800"},
        HONEST | {"gpus": HONEST["gpus"] * 200},
        HONEST | {"gpus": [HONEST["gpus"][0] | {"uuid": "all"}]},
        HONEST | {"gpus": [HONEST["gpus"][0] | {"memory_total": 2**64}]},
        HONEST | {"platform": "linux/amd64\nx"},
        HONEST | {"seats": [HONEST["seats"][0] | {"ports": {"ssh": 65536, "jupyter": 23}}]},
        HONEST | {"seats": [HONEST["seats"][0] | {"files": {"x": "y" * 100_000}}]},
        HONEST | {"absent_because": {"x": DEEP}},
        HONEST | {"hostname": ["x"] * 200_000},
        HONEST | {"claim": CLAIM.model_dump() | {"fence": 10**4299}},
    ],
)
def test_facts_that_no_node_of_ours_has_are_a_problem(facts: Any) -> None:
    problem = read_facts(facts)
    assert isinstance(problem, Problem)
    assert problem.code == "module_failed"
    assert len(problem.what) < 1000


def test_a_node_cannot_report_under_the_name_of_another() -> None:
    facts = read_facts(HONEST | {"name": "another"})
    assert isinstance(facts, NodeFacts)
    assert facts.name == "lying"


@pytest.mark.parametrize("clock", [float("nan"), float("inf"), 10**400, "x", None, []])
def test_a_clock_that_is_no_time_is_a_problem(clock: Any) -> None:
    event = HostEvent(
        "n1", "ok", {"facts": {}, "clock": clock}, "2026-11-23T10:00:00+00:00", "2026-11-23T10:00:04+00:00"
    )
    assert isinstance(parse_facts(event), Problem)


@costly
@given(with_lies(HONEST))
def test_a_lying_node_leaves_the_plan_of_others_as_it_is(facts: Any) -> None:
    probed = {"honest": a_node("honest"), "lying": read_facts(facts)}
    inputs = PlanInputs(a_lab(), a_lock(), load(), TEMPLATES, ())
    prepared = build_plan(inputs, [FakeHost("lying"), FakeHost("honest")], probed)
    alone = build_plan(inputs, [FakeHost("honest")], {"honest": probed["honest"]})
    assert prepared.plan.steps[1] == alone.plan.steps[0]
    json.dumps(prepared.plan.model_dump(mode="json"), allow_nan=False)
    assert prepared.plan.model_dump_json()


@given(st.dictionaries(st.sampled_from(["record", "problem", "phase", "text", "done", "total", "unit", "msg"]), VALUES))
def test_every_result_of_a_job_is_read_without_an_exception(result: dict[str, Any]) -> None:
    for status in ("ok", "failed", "unreachable"):
        event = HostEvent("lying", status, result)
        record, answer = parse_record(event, started=True), parse_claim_problem(event)
        assert record is None or record.node == "lying"
        assert answer is None or isinstance(answer, Problem)
        assert isinstance(parse_facts(event), Problem)
        for found in (record, answer):
            assert found is None or found.model_dump_json()
    progress = parse_progress(HostEvent("lying", "retry", result))
    assert event_line(progress)
    assert progress.model_dump_json()


RECORD = {
    "state": "committed",
    "generation": 1,
    "gpu": {"method": "torch", "uuids": ["GPU-1"]},
    "access": {"jupyter": "x", "ssh": "y"},
    "problems": [{"code": "a", "what": "b", "why": "c", "fix": "d"}],
    "seconds": 1.0,
}


@given(with_lies(RECORD))
def test_a_record_with_a_lie_is_a_record_of_its_node(record: Any) -> None:
    read = parse_record(HostEvent("lying", "ok", {"record": record}), started=True)
    assert read is None or read.node == "lying"
    if read is not None:
        json.dumps(read.model_dump(mode="json"), allow_nan=False)


@given(VALUES)
def test_a_preparation_is_read_without_an_exception(record: Any) -> None:
    preparer = Preparer(Settings(inventory=None), lambda _: None, NodePreparation)
    found = preparer._parse(HostEvent("lying", "ok", {"record": record}), started=True)
    assert found is None or found.node == "lying"


def test_malformed_results_end_in_records_of_their_node_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    results: dict[str, dict[str, Any]] = {
        "broken": {"record": ["x"]},
        "lying": {"record": {"state": {}}},
        "honest": {"record": RECORD},
    }

    def play(*arguments: Any) -> None:
        on_event = arguments[-1]
        for node, result in results.items():
            on_event(HostEvent(node, "ok", result))

    monkeypatch.setattr("provisioner.adapters.ansible.fleet.run_playbook", play)
    monkeypatch.setattr("provisioner.adapters.ansible.prepare.run_playbook", play)
    events: list[Event] = []
    records = AnsibleFleet(Settings(inventory=None), events.append).notify(dict.fromkeys(results, "s"), "r1", None)
    assert {node: record.state for node, record in records.items()} == {
        "broken": "unknown",
        "lying": "unknown",
        "honest": "committed",
    }
    order = PrepareOrder(run="r1", registry=RegistryAccess(address="r:1", ca=None), deadline=9)
    prepared = Preparer(Settings(inventory=None), events.append, NodePreparation).prepare(dict.fromkeys(results, order))
    assert {node: found.state for node, found in prepared.items()} == {
        "broken": "unknown",
        "lying": "failed",
        "honest": "failed",
    }


def test_one_fence_far_above_the_others_is_a_problem_of_its_node() -> None:
    assert implausible_fences({}) == {}
    assert implausible_fences({"only": MAX_FENCE}) == {}
    assert implausible_fences({"new": 0, "a": 3, "b": 7}) == {}
    found = implausible_fences({"a": 3, "lying": MAX_FENCE, "b": 7})
    assert list(found) == ["lying"]
    assert found["lying"].code == "fence_implausible"


@given(st.lists(st.integers(0, 10_000), min_size=2), st.integers(0, MAX_FENCE), st.integers(0, 100))
def test_a_lying_node_cannot_use_up_the_fences_of_a_lab(honest: list[int], lie: int, position: int) -> None:
    fences = {f"n{index}": fence for index, fence in enumerate(honest)}
    fences = dict([*list(fences.items())[: position % len(honest)], ("lying", lie), *fences.items()])
    believed = [fence for name, fence in fences.items() if name not in implausible_fences(fences)]
    assert set(honest) <= set(believed)
    assert next_fence(believed) <= 10_000 + 1_000_001
    assert Claim.model_validate(CLAIM.model_dump() | {"fence": next_fence([MAX_FENCE])}).fence == MAX_FENCE + 1


def test_what_is_no_token_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = {
        "good": b"ab12" * 16,
        "long": b"a" * (1 << 20),
        "binary": b"\xff\xfe",
        "url": b"x&next=http://evil",
        "empty": b"",
    }

    def play(_: Settings, folder: Path, *_others: object) -> None:
        for node, token in sent.items():
            (folder / "orders" / f"{node}.token").write_bytes(token)

    monkeypatch.setattr("provisioner.adapters.ansible.fleet.run_playbook", play)
    tokens = dict(AnsibleFleet(Settings(inventory=None), lambda _: None).access(dict.fromkeys(sent, "demo-student")))
    assert tokens.pop("good") == "ab12" * 16
    assert {token.code if isinstance(token, Problem) else token for token in tokens.values()} == {"bad_token"}
