from typing import Any

import pytest

from provisioner.adapters.ansible.play import HostEvent, Word
from provisioner.adapters.ansible.results import ended, facts_of, probed, progress, record_of
from provisioner.domain.rollout.report import NodeRecord
from provisioner.domain.values.node import Gpu, NodeFacts
from provisioner.domain.values.problem import Problem
from tests.builders import a_gpu, a_node

START, END = "2026-11-23T10:00:00.000000+00:00", "2026-11-23T10:00:04.000000+00:00"
AT_START = 1795428000.0


def a_probe(**over: Any) -> HostEvent:
    result = {"facts": {"hostname": "n1"}, "clock": AT_START} | over
    return HostEvent("n1", "ok", result, START, END)


@pytest.mark.parametrize(
    ("clock", "offset"),
    [(0.0, 0.0), (2.0, 0.0), (4.0, 0.0), (-90.5, -90.5), (64.0, 60.0)],
)
def test_a_clock_is_off_by_no_less_than_what_is_told(clock: float, offset: float) -> None:
    facts = facts_of(a_probe(clock=AT_START + clock))
    assert isinstance(facts, NodeFacts)
    assert facts.clock_offset == offset


@pytest.mark.parametrize("facts", [{"gpus": "none"}, {"driver": "x.y"}, None])
def test_facts_that_cannot_be_read_are_a_problem(facts: Any) -> None:
    told = facts_of(a_probe(facts=facts) if facts else HostEvent("n1", "ok", {}, START, END))
    assert isinstance(told, Problem)
    assert told.code == "module_failed"


MESSAGE = "Task failed: Failed to connect to the host via ssh: Connection refused\nmore"
BROKEN = {"msg": "MODULE FAILURE", "module_stderr": "Traceback …\nImportError: no fcntl"}


@pytest.mark.parametrize(
    ("word", "result", "code", "text"),
    [
        ("unreachable", {"msg": MESSAGE}, "unreachable", "Failed to connect to the host via ssh: Connection refused"),
        ("unreachable", {}, "unreachable", "Ansible cannot reach it"),
        ("failed", BROKEN, "module_failed", "MODULE FAILURE\nTraceback …\nImportError: no fcntl"),
        ("failed", {}, "module_failed", "no message"),
    ],
)
def test_what_ansible_said_becomes_the_problem(word: Word, result: dict[str, Any], code: str, text: str) -> None:
    problem = facts_of(HostEvent("n1", word, result))
    assert isinstance(problem, Problem)
    assert (problem.code, problem.what) == (code, text)


@pytest.mark.parametrize(
    ("word", "result", "begun", "state", "code"),
    [
        ("unreachable", {}, False, "unreachable", "unreachable"),
        ("unreachable", {}, True, "unknown", "lost_contact"),
        ("failed", {"msg": "x"}, False, "failed", "module_failed"),
        ("failed", {"msg": "x"}, True, "unknown", "lost_contact"),
        ("ok", {"record": {"state": "committed", "generation": 3}}, True, "committed", None),
        ("failed", {"record": {"state": "failed"}}, False, "failed", None),
        ("ok", {"record": {"state": "no such state"}}, True, "unknown", "module_failed"),
    ],
)
def test_a_node_is_judged_by_its_own_record_and_without_one_by_what_could_have_begun(
    word: Word, result: dict[str, Any], begun: bool, state: str, code: str | None
) -> None:
    record = record_of(HostEvent("n1", word, result), begun=begun)
    assert record is not None
    assert (record.node, record.state) == ("n1", state)
    assert [problem.code for problem in record.problems] == ([code] if code else [])


@pytest.mark.parametrize(
    ("word", "result"), [("ok", {"job": "/x"}), ("retry", {"finished": False, "record": None}), ("start", {})]
)
def test_as_long_as_more_is_to_come_there_is_no_record(word: Word, result: dict[str, Any]) -> None:
    assert record_of(HostEvent("n1", word, result), begun=True) is None


@pytest.mark.parametrize(("phase", "shown"), [("verify", "verify"), ("remove", "switch")])
def test_progress_has_its_bytes(phase: str, shown: str) -> None:
    told = {"phase": phase, "text": "pulling", "done": 5, "total": 10, "unit": "B"}
    event = progress(HostEvent("n1", "retry", told))
    assert (event.phase, event.kind, event.node, event.done, event.total) == (shown, "progress", "n1", 5, 10)


def test_a_probe_is_told_in_one_line() -> None:
    facts = a_node(gpus=(a_gpu(index=0), a_gpu(index=1), Gpu(index=2)))
    assert probed("n1", facts).text == "2 x NVIDIA GeForce RTX 4090, 1 x a GPU that does not answer, driver 570.172.08"
    bare = a_node(gpus=(), driver=None, absent_because={"gpus": "no driver"})
    assert probed("n1", bare).text == "no driver"


@pytest.mark.parametrize(("state", "kind"), [("staged", "done"), ("committed", "done"), ("rolled_back", "failed")])
def test_an_end_is_good_only_where_the_node_went_forward(state: Any, kind: str) -> None:
    assert ended("switch", NodeRecord(node="n1", state=state)).kind == kind
