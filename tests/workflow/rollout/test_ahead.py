"""Nodes of later waves pull while a wave switches, and no pull begins once a node has failed."""

import threading
from pathlib import Path

import pytest

from provisioner.domain.rollout.run_spec import Rules
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.rollout.run import run_waves
from tests.workflow.fake_fleet import FakeFleet, a_context
from tests.workflow.rollout.test_run import a_run_spec, creating, states

NODES = ("n1", "n2", "n3", "n4")
WAVES = Rules(("1", "2", "100%"), pulls=1)
_SECONDS = 20  # until a test gives up waiting for another thread


class Moments:
    """Named moments that threads wait for."""

    def __init__(self) -> None:
        self._events: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    def _event(self, name: str) -> threading.Event:
        with self._lock:
            return self._events.setdefault(name, threading.Event())

    def has_come(self, name: str) -> None:
        self._event(name).set()

    def wait_for(self, name: str) -> None:
        assert self._event(name).wait(_SECONDS), f"{name} did not come"


def test_nodes_of_later_waves_are_staged_while_a_wave_switches(tmp_path: Path) -> None:
    moments = Moments()

    def at(moment: str) -> None:
        if moment == "switch before n1":
            moments.wait_for("stage after n4")
        moments.has_come(moment)

    fleet = FakeFleet(tmp_path, at=at).add(*NODES)
    outcome = run_waves(a_run_spec(creating(*NODES), WAVES, pull=1000), fleet, a_context())
    assert states(outcome) == dict.fromkeys(NODES, "committed")
    assert [nodes for act, nodes in fleet.calls if act == "stage"] == [("n1",), ("n2",), ("n3",), ("n4",)]
    assert [nodes for act, nodes in fleet.calls if act == "switch"] == [("n1",), ("n2",), ("n3", "n4")]


def test_no_pull_begins_after_the_first_node_has_failed_and_the_one_that_runs_is_waited_for(tmp_path: Path) -> None:
    moments, ended = Moments(), list[str]()

    def at(moment: str) -> None:
        ended.append(moment)
        if moment == "switch before n1":
            moments.wait_for("stage before n2")
        moments.has_come(moment)
        if moment == "stage before n2":
            moments.wait_for("the run waits")

    def on_event(event: Event) -> None:
        if event.text.startswith("waiting for pulls"):
            moments.has_come("the run waits")

    fleet = FakeFleet(tmp_path, {"switch": {"n1": "rolled_back"}}, at=at).add(*NODES)
    outcome = run_waves(a_run_spec(creating(*NODES), WAVES, pull=1000), fleet, a_context(on_event))
    assert states(outcome) == {"n1": "rolled_back"} | dict.fromkeys(NODES[1:], "not_started")
    assert [nodes for act, nodes in fleet.calls if act == "stage"] == [("n1",), ("n2",)]
    assert ended.index("stage after n2") < ended.index("release before n2"), "a node is released after its job"
    assert set(fleet.claims_by_node().values()) == {None}


def test_a_node_that_failed_ahead_of_its_wave_counts_when_the_wave_begins(tmp_path: Path) -> None:
    moments = Moments()

    def at(moment: str) -> None:
        if moment == "switch before n1":
            moments.wait_for("stage after n2")
        moments.has_come(moment)

    fleet = FakeFleet(tmp_path, {"stage": {"n2": "failed"}}, at=at).add(*NODES)
    outcome = run_waves(a_run_spec(creating(*NODES), WAVES), fleet, a_context())
    assert states(outcome) == {"n1": "committed", "n2": "failed", "n3": "not_started", "n4": "not_started"}


def test_within_the_budget_the_rest_is_staged_in_its_own_wave(tmp_path: Path) -> None:
    moments = Moments()

    def at(moment: str) -> None:
        if moment == "stage before n2":
            moments.wait_for("switch after n1")
        moments.has_come(moment)

    fleet = FakeFleet(tmp_path, {"switch": {"n1": "rolled_back"}}, at=at).add(*NODES)
    rules = WAVES._replace(max_failures="1")
    outcome = run_waves(a_run_spec(creating(*NODES), rules, pull=1000), fleet, a_context())
    assert states(outcome) == {"n1": "rolled_back"} | dict.fromkeys(NODES[1:], "committed")


def test_a_stop_is_heard_between_the_pulls_of_later_waves(tmp_path: Path) -> None:
    moments, stop = Moments(), threading.Event()

    def at(moment: str) -> None:
        if moment == "switch before n1":
            moments.wait_for("stage after n2")
        if moment == "stage before n2":
            stop.set()
        moments.has_come(moment)

    fleet = FakeFleet(tmp_path, at=at).add(*NODES)
    outcome = run_waves(a_run_spec(creating(*NODES), WAVES, pull=1000), fleet, a_context(stop=stop.is_set))
    assert outcome.stopped is not None
    assert outcome.stopped.code == "interrupted"
    assert [nodes for act, nodes in fleet.calls if act == "stage"] == [("n1",), ("n2",)]


def test_what_staging_ahead_raises_ends_the_run_when_its_wave_begins(tmp_path: Path) -> None:
    def at(moment: str) -> None:
        if moment == "stage before n2":
            raise ProblemError(Problem("ansible_failed", "what", "why", "fix"))

    fleet = FakeFleet(tmp_path, at=at).add(*NODES)
    with pytest.raises(ProblemError, match="ansible_failed"):
        run_waves(a_run_spec(creating(*NODES), WAVES), fleet, a_context())
    assert ("switch", ("n1",)) in fleet.calls
    assert not any(thread.name == "staging" for thread in threading.enumerate())
