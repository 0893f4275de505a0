import json
from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters.ansible.play import HostEvent, HostStatus
from provisioner.adapters.ansible.results import (
    host_problem,
    parse_facts,
    parse_progress,
    parse_record,
    probe_event,
    record_event,
)
from provisioner.domain.rollout.report import NodeRecord
from provisioner.domain.values.node import Gpu, NodeFacts
from provisioner.domain.values.problem import Problem
from tests.adapters.ansible.lies import as_sent
from tests.builders import a_gpu, a_node
from tests.playbooks.node_code import module_util

START, END = "2026-11-23T10:00:00.000000+00:00", "2026-11-23T10:00:04.000000+00:00"
AT_START = 1795428000.0


def a_probe(**over: Any) -> HostEvent:
    result = {"facts": as_sent({"hostname": "n1", "seats": []}), "clock": AT_START} | over
    return HostEvent("n1", "ok", result, START, END)


@pytest.mark.parametrize(
    ("clock", "offset"),
    [(0.0, 0.0), (2.0, 0.0), (4.0, 0.0), (-90.5, -90.5), (64.0, 60.0)],
)
def test_the_clock_offset_is_the_smallest_one_that_is_certain(clock: float, offset: float) -> None:
    facts = parse_facts(a_probe(clock=AT_START + clock))
    assert isinstance(facts, NodeFacts)
    assert facts.clock_offset == offset


@pytest.mark.parametrize("facts", [{"gpus": "none"}, {"driver": "x.y"}, None])
def test_unreadable_facts_are_a_problem(facts: Any) -> None:
    problem = parse_facts(
        a_probe(facts=as_sent({"seats": [], **facts})) if facts else HostEvent("n1", "ok", {}, START, END)
    )
    assert isinstance(problem, Problem)
    assert problem.code == "module_failed"


MESSAGE = "Task failed: Failed to connect to the host via ssh: Connection refused\nmore"
BROKEN = {"msg": "MODULE FAILURE", "module_stderr": "Traceback …\nImportError: no fcntl"}


@pytest.mark.parametrize(
    ("status", "result", "code", "text"),
    [
        ("unreachable", {"msg": MESSAGE}, "unreachable", MESSAGE.removeprefix("Task failed: ")),
        ("unreachable", {}, "unreachable", "Ansible cannot reach the node"),
        ("failed", BROKEN, "module_failed", "MODULE FAILURE\nTraceback …\nImportError: no fcntl"),
        (
            "failed",
            {},
            "module_failed",
            "Ansible gave no message: the node printed nothing, or more than any valid result has",
        ),
    ],
)
def test_ansibles_message_becomes_the_problem(status: HostStatus, result: dict[str, Any], code: str, text: str) -> None:
    problem = parse_facts(HostEvent("n1", status, result))
    assert isinstance(problem, Problem)
    assert (problem.code, problem.what) == (code, text)


PREFIX = "Task failed: Failed to connect to the host via ssh: "
REASONS = {
    "banner": ("unreachable", "*****\r\n* Authorised use only *\r\nroot@h: Permission denied (publickey)."),
    "warning": (
        "unreachable",
        "Warning: Permanently added h to the list of known hosts.\r\nroot@h: Permission denied.",
    ),
    "changed": (
        "host_key_changed",
        "@@@\r\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\r\n@@@\r\nHost key verification failed.",
    ),
    "revoked": ("host_key_changed", "@ WARNING: REVOKED HOST KEY DETECTED! @\r\nHost key verification failed."),
    "unknown": ("host_key_unknown", "Host key verification failed."),
    "strict": ("host_key_unknown", "No ED25519 host key is known for h and you have requested strict checking."),
    "jump": ("host_key_unknown", "Host key verification failed.\r\nConnection closed by UNKNOWN port 65535"),
}


@pytest.mark.parametrize("name", REASONS)
def test_the_whole_text_of_ssh_is_kept_and_a_host_key_is_a_problem_of_its_own(name: str) -> None:
    code, text = REASONS[name]
    inventory = Path("inventories/demo/hosts.yml")
    problem = host_problem(HostEvent("n1", "unreachable", {"msg": PREFIX + text}, inventory=inventory))
    assert (problem.code, problem.what) == (code, f"{PREFIX[13:]}{text}".replace("\r", ""))
    accepts = "provision probe inventories/demo --accept-new-host-keys" in problem.fix
    assert accepts == (code != "unreachable")
    record = parse_record(HostEvent("n1", "unreachable", {"msg": text}), ["s"], started=False)
    assert record is not None
    assert (record.state, record.problems[0].code) == ("unreachable", code)
    assert record_event("stage", record).text == text.splitlines()[-1]


def test_of_a_long_banner_beginning_and_end_are_kept() -> None:
    problem = host_problem(HostEvent("n1", "unreachable", {"msg": f"begin {'x' * 100_000} Permission denied."}))
    assert problem.what.startswith("begin")
    assert problem.what.endswith("Permission denied.")
    assert len(problem.what) < 5000


@pytest.mark.parametrize("text", ["Missing sudo password", "Incorrect su password", "sudo: a password is required"])
def test_a_missing_become_password_is_a_problem_that_names_the_option(text: str) -> None:
    problem = host_problem(HostEvent("n1", "failed", {"msg": f"Task failed: {text}"}))
    assert problem.code == "become_password"
    assert "--ask-become-pass" in problem.fix


def a_batch(**seats: Any) -> dict[str, Any]:
    return {"record": {"state": "committed", "released": True, "seats": seats}}


@pytest.mark.parametrize(
    ("status", "result", "started", "state", "code"),
    [
        ("unreachable", {}, False, "unreachable", "unreachable"),
        ("unreachable", {}, True, "unknown", "lost_contact"),
        ("failed", {"msg": "x"}, False, "failed", "module_failed"),
        ("failed", {"msg": "x"}, True, "unknown", "lost_contact"),
        ("failed", {"msg": "x", "timedout": {"period": 180}}, False, "unreachable", "timed_out"),
        ("failed", {"msg": "x", "timedout": {"period": 180}}, True, "unknown", "lost_contact"),
        ("failed", {"finished": False, "text": "pulling", "record": None}, True, "unknown", "job_overdue"),
        ("ok", a_batch(s={"state": "committed", "generation": 3}), True, "committed", None),
        ("failed", {"record": {"state": "failed"}}, False, "failed", None),
        ("ok", {"record": {"state": "no such state"}}, True, "unknown", "module_failed"),
        ("ok", a_batch(s={"state": "no such state"}), True, "unknown", "module_failed"),
        ("ok", a_batch(other={"state": "committed"}), True, "unknown", "module_failed"),
    ],
)
def test_a_node_without_a_record_is_unknown_if_its_job_may_have_started(
    status: HostStatus, result: dict[str, Any], started: bool, state: str, code: str | None
) -> None:
    record = parse_record(HostEvent("n1", status, result), ["s"], started=started)
    assert record is not None
    assert (record.node, record.state, [seat.seat for seat in record.seats]) == ("n1", state, ["s"])
    assert [problem.code for problem in record.problems] == ([code] if code else [])


@pytest.mark.parametrize("state", ["committed", "unchanged", "failed", "rolled_back", "needs_attention", "deferred"])
def test_the_record_of_a_job_that_is_about_no_seat_has_its_checks(state: str) -> None:
    sent = {"state": state, "problems": [], "checks": {"broker": "answers"}, "seconds": 2.5}
    found = parse_record(HostEvent("n1", "ok", {"record": sent}), ["self service"], started=True)
    assert found is not None
    assert (found.state, found.checks, found.seconds) == (state, {"broker": "answers"}, 2.5)


def test_each_ordered_seat_has_a_record_and_a_malformed_one_leaves_the_others() -> None:
    sent = a_batch(a={"state": "committed", "generation": 3}, b={"state": 7}, d={"state": "failed"})
    record = parse_record(HostEvent("n1", "ok", sent), ["a", "b", "c"], started=True)
    assert record is not None
    assert (record.state, record.released) == ("unknown", True)
    assert {seat.seat: (seat.state, seat.generation) for seat in record.seats} == {
        "a": ("committed", 3),
        "b": ("unknown", 0),
        "c": ("unknown", 0),
    }
    assert ["cannot be read" in record.problems[0].what, record.problems[1].what] == [True, "no result for this host"]


def test_a_node_that_refuses_a_batch_refuses_all_of_its_seats() -> None:
    problem = {"code": "claimed", "what": "x", "why": "y", "fix": "z"}
    refusal = {"state": "failed", "problems": [problem], "generation": 7}
    record = parse_record(HostEvent("n1", "failed", {"record": refusal}), ["a", "b"], started=False)
    assert record is not None
    assert (record.state, record.released, len(record.problems)) == ("failed", False, 1)
    assert [(seat.seat, seat.state, seat.generation, seat.problems[0].code) for seat in record.seats] == [
        ("a", "failed", 0, "claimed"),
        ("b", "failed", 0, "claimed"),
    ]


def test_the_records_of_two_hundred_seats_are_within_the_bounds_of_a_result() -> None:
    checks = {f"check {number}": "ok " * 20 for number in range(8)}
    access = {"jupyter": "http://192.0.2.1:22001/lab", "ssh": "ssh -p 22000 student@192.0.2.1", "host_key": "x" * 80}
    gpu = {"method": "torch", "uuids": ["GPU-" + "a" * 36] * 8, "detail": "x" * 200}
    seat = {"state": "committed", "generation": 3, "checks": checks, "access": access, "gpu": gpu, "seconds": 3.5}
    names = [f"ml_{number}" for number in range(200)]
    sent = a_batch(**dict.fromkeys(names, seat))
    assert len(json.dumps(sent)) < module_util("jobs.batch").MOST_ROOM
    record = parse_record(HostEvent("n1", "ok", sent), names, started=True)
    assert record is not None
    assert {seat.state for seat in record.seats} == {"committed"}


@pytest.mark.parametrize(
    ("status", "result"), [("ok", {"job": "/x"}), ("retry", {"finished": False, "record": None}), ("start", {})]
)
def test_a_running_job_has_no_record_yet(status: HostStatus, result: dict[str, Any]) -> None:
    assert parse_record(HostEvent("n1", status, result), ["s"], started=True) is None


@pytest.mark.parametrize(("phase", "shown"), [("verify", "verify"), ("remove", "switch")])
def test_progress_keeps_bytes_and_replaces_an_unknown_phase(phase: str, shown: str) -> None:
    result = {"phase": phase, "text": "pulling", "done": 5, "total": 10, "unit": "B"}
    event = parse_progress(HostEvent("n1", "retry", result))
    assert (event.phase, event.kind, event.node, event.done, event.total) == (shown, "progress", "n1", 5, 10)


def test_the_event_of_a_probe_lists_gpus_and_driver_in_one_line() -> None:
    facts = a_node(gpus=(a_gpu(index=0), a_gpu(index=1), Gpu(index=2)))
    assert probe_event("n1", facts).text == "2 x NVIDIA GeForce RTX 4090, 1 x unreadable GPU, driver 570.172.08"
    bare = a_node(gpus=(), driver=None, absent_because={"gpus": "no driver"})
    assert probe_event("n1", bare).text == "no driver"


def test_the_event_of_several_seats_counts_their_states_and_names_the_first_problem() -> None:
    problem = {"code": "x", "what": "the disk is full", "why": "y", "fix": "z"}
    seats = {"a": {"state": "committed"}, "b": {"state": "failed", "problems": [problem]}, "c": {"state": "committed"}}
    for names, text in (("ac", "2 committed"), ("abc", "2 committed, 1 failed; the disk is full")):
        record = parse_record(HostEvent("n1", "ok", a_batch(**seats)), list(names), started=True)
        assert record is not None
        assert record_event("switch", record).text == text


@pytest.mark.parametrize(("state", "kind"), [("staged", "done"), ("committed", "done"), ("rolled_back", "failed")])
def test_a_rolled_back_job_ends_in_a_failed_event(state: Any, kind: str) -> None:
    assert record_event("switch", NodeRecord(node="n1", state=state)).kind == kind
