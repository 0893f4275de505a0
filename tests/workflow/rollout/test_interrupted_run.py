"""The law of resuming: a run that is interrupted at any moment and resumed ends as if it had not been interrupted.

With one exception, on the safe side: where some nodes of a wave failed before the interruption, nodes of that wave that
had not been started are not started any more.
"""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provisioner.domain.rollout.report import BAD, NodeState
from provisioner.domain.rollout.run_spec import Rules, RunSpec, build_run_spec
from provisioner.domain.values.event import Event, RecordedEvent
from provisioner.workflow.rollout.claims import fence_above
from provisioner.workflow.rollout.resume import assess_nodes, final_records, resume
from provisioner.workflow.rollout.run import Outcome, run_waves
from tests.workflow.fake_fleet import SEAT, FakeFleet, a_claim, a_context, a_plan, orders_of
from tests.workflow.rollout.test_run import states

NOW = datetime(2026, 11, 26, tzinfo=UTC)
NODES = ("n1", "n2", "n3", "n4")
SEATS = ("demo_ann", "demo_bob", "demo_eve")
STAGED: list[NodeState] = ["staged", "staged", "staged", "failed"]
SWITCHED: list[NodeState] = ["committed", "committed", "committed", "rolled_back", "needs_attention"]


LAST_WAVE = {"n3", "n4"}  # the only one of more than one node


def bad(ended: dict[str, NodeState]) -> int:
    return sum(state in BAD for state in ended.values())


class Killed(BaseException):
    """Acts like SIGKILL: no code after it runs."""


def end_threads() -> None:
    """Wait for the threads of a killed run, which end at their next moment."""
    for thread in threading.enumerate():
        if thread.name == "staging":
            thread.join()


class InterruptedRun:
    """A run on four nodes with given final states, and its journal."""

    def __init__(
        self,
        folder: Path,
        ends: dict[str, dict[str, NodeState]],
        rules: Rules,
        seats: Sequence[str] = (SEAT,),
    ) -> None:
        self.folder, self.ends, self.recorded = folder, ends, list[RecordedEvent]()
        FakeFleet(folder).add(*NODES, generation=1, seats=seats)
        plan = a_plan(dict.fromkeys(NODES, "update"), generation=1, seats=seats)
        orders = orders_of(*NODES, seats=seats)
        self.what: RunSpec = build_run_spec("r1", plan, orders, rules, NOW).with_claim(a_claim())

    def record(self, event: Event) -> None:
        self.recorded.append(RecordedEvent(seq=len(self.recorded) + 1, at=NOW, event=event))

    def interrupt(self, moments: list[int]) -> Outcome:
        """Kill the run after so many moments, resume it, kill it again, …, until it ends."""
        try:
            return run_waves(self.what, self._fleet_killed_after(moments), a_context(self.record))
        except Killed:
            end_threads()
            return self._resume_interrupted(moments[1:])

    def _resume_interrupted(self, moments: list[int]) -> Outcome:
        fleet, ended = self._fleet_killed_after(moments), final_records(self.recorded)
        try:
            probed = fleet.probe(NODES)
            run_spec = self.what.with_claim(a_claim(fence=fence_above(probed)))
            return resume(run_spec, assess_nodes(run_spec, ended, probed), fleet, a_context(self.record))
        except Killed:
            end_threads()
            return self._resume_interrupted(moments[1:])

    def _fleet_killed_after(self, moments: list[int]) -> FakeFleet:
        left = moments[0] if moments else -1

        def at(_moment: str) -> None:
            nonlocal left
            left -= 1
            if left <= -1 and moments:  # for every thread: SIGKILL spares none
                raise Killed

        return FakeFleet(self.folder, self.ends, at)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    staged=st.lists(st.sampled_from(STAGED), min_size=4, max_size=4),
    switched=st.lists(st.sampled_from(SWITCHED), min_size=4, max_size=4),
    most=st.integers(0, 3),
    moments=st.lists(st.integers(0, 24), max_size=3),
)
def test_a_resumed_run_ends_as_an_uninterrupted_one(
    staged: list[NodeState], switched: list[NodeState], most: int, moments: list[int]
) -> None:
    ends = {
        "stage": dict(zip(NODES, staged, strict=True)),
        "switch": dict(zip(NODES, switched, strict=True)),
    }
    rules = Rules(("1", "2", "100%"), max_failures=str(most))
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        wanted = states(InterruptedRun(Path(one), ends, rules).interrupt([]))
        interrupted = InterruptedRun(Path(other), ends, rules)
        got = states(interrupted.interrupt(moments))
        spared = {node for node in NODES if got[node] == "not_started" != wanted[node]}
        assert {node: got[node] for node in NODES if node not in spared} == {
            node: wanted[node] for node in NODES if node not in spared
        }
        assert not spared or (bad(got) > most and spared < LAST_WAVE)
        assert FakeFleet(Path(other)).claims_by_node() == dict.fromkeys(NODES), "no node stays claimed"


def seat_states(outcome: Outcome) -> dict[str, NodeState]:
    """The state of each seat that changed, as NODE/SEAT."""
    return {f"{record.node}/{seat.seat}": seat.state for record in outcome.records for seat in record.seats}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    failing=st.dictionaries(
        st.tuples(st.sampled_from(["stage", "switch"]), st.sampled_from(NODES), st.sampled_from(SEATS)),
        st.sampled_from(["failed", "stale", "rolled_back", "deferred"]),
        max_size=4,
    ),
    moments=st.lists(st.integers(0, 60), max_size=3),
)
def test_a_resumed_run_of_many_seats_ends_each_seat_as_an_uninterrupted_one(
    failing: dict[tuple[str, str, str], NodeState], moments: list[int]
) -> None:
    ends: dict[str, dict[str, NodeState]] = {"stage": {}, "switch": {}}
    for (act, node, seat), state in failing.items():
        ends[act][f"{node}/{seat}"] = state
    rules = Rules(("1", "2", "100%"), max_failures="100%")
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        wanted = InterruptedRun(Path(one), ends, rules, SEATS)
        interrupted = InterruptedRun(Path(other), ends, rules, SEATS)
        assert seat_states(interrupted.interrupt(moments)) == seat_states(wanted.interrupt([]))
        assert FakeFleet(Path(other)).claims_by_node() == dict.fromkeys(NODES), "no node stays claimed"
