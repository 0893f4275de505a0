"""The law of resuming: wherever a run is cut off, however its nodes end, resumed it ends as if nobody had cut it.

With one exception, to the safe side: where some nodes of a wave had ended badly before others of it were begun, these
are not begun any more.
"""

import os
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provisioner.domain.rollout.report import BAD, NodeState
from provisioner.domain.rollout.run_spec import Rules, RunSpec, build_run_spec
from provisioner.domain.values.event import Event, Recorded
from provisioner.workflow.rollout.claims import fence_above
from provisioner.workflow.rollout.resume import heard, resume, stand
from provisioner.workflow.rollout.run import never, run_waves
from tests.workflow.fake_fleet import FakeFleet, a_claim, a_plan, an_order
from tests.workflow.rollout.test_run import states

NOW = datetime(2026, 11, 26, tzinfo=UTC)
NODES = ("n1", "n2", "n3", "n4")
STAGED: list[NodeState] = ["staged", "staged", "staged", "failed"]
SWITCHED: list[NodeState] = ["committed", "committed", "committed", "rolled_back", "needs_attention"]


LAST_WAVE = {"n3", "n4"}  # the only one of more than one node


def bad(ended: dict[str, NodeState]) -> int:
    return sum(state in BAD for state in ended.values())


class Killed(BaseException):
    """What SIGKILL is to the code: nothing after this line happens."""


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test cuts the power here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Story:
    """A run over four nodes that end as they are told to, and the record of what was heard."""

    def __init__(self, folder: Path, ends: dict[str, dict[str, NodeState]], rules: Rules) -> None:
        self.folder, self.ends, self.recorded = folder, ends, list[Recorded]()
        FakeFleet(folder).add(*NODES, generation=1)
        plan = a_plan(dict.fromkeys(NODES, "update"), generation=1)
        orders = {node: an_order(node) for node in NODES}
        self.what: RunSpec = build_run_spec("r1", plan, orders, rules, NOW).with_claim(a_claim())

    def hear(self, event: Event) -> None:
        self.recorded.append(Recorded(seq=len(self.recorded) + 1, at=NOW, event=event))

    def undisturbed(self) -> dict[str, NodeState]:
        return states(run_waves(self.what, FakeFleet(self.folder, self.ends), self.hear, never))

    def cut_off(self, moments: list[int]) -> dict[str, NodeState]:
        """Killed after so many moments, resumed, killed again, …; until one comes to its end."""
        try:
            return states(run_waves(self.what, self._dying(moments), self.hear, never))
        except Killed:
            return self._resumed(moments[1:])

    def _resumed(self, moments: list[int]) -> dict[str, NodeState]:
        fleet, ended = self._dying(moments), heard(self.recorded)
        try:
            probed = fleet.probe(NODES)
            what = self.what.with_claim(a_claim(fence=fence_above(probed)))
            return states(resume(what, stand(what, ended, probed), fleet, self.hear))
        except Killed:
            return self._resumed(moments[1:])

    def _dying(self, moments: list[int]) -> FakeFleet:
        left = moments[0] if moments else -1

        def at(_moment: str) -> None:
            nonlocal left
            left -= 1
            if left == -1 and moments:
                raise Killed

        return FakeFleet(self.folder, self.ends, at)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    staged=st.lists(st.sampled_from(STAGED), min_size=4, max_size=4),
    switched=st.lists(st.sampled_from(SWITCHED), min_size=4, max_size=4),
    most=st.integers(0, 3),
    moments=st.lists(st.integers(0, 24), max_size=3),
)
def test_the_end_is_the_same(staged: list[NodeState], switched: list[NodeState], most: int, moments: list[int]) -> None:
    ends = {
        "stage": dict(zip(NODES, staged, strict=True)),
        "switch": dict(zip(NODES, switched, strict=True)),
    }
    rules = Rules(("1", "2", "100%"), max_failures=str(most))
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        wanted = Story(Path(one), ends, rules).undisturbed()
        story = Story(Path(other), ends, rules)
        got = story.cut_off(moments)
        spared = {node for node in NODES if got[node] == "not_started" != wanted[node]}
        assert {node: got[node] for node in NODES if node not in spared} == {
            node: wanted[node] for node in NODES if node not in spared
        }
        assert not spared or (bad(got) > most and spared < LAST_WAVE)
        assert FakeFleet(Path(other)).alive() == dict.fromkeys(NODES), "nothing stays claimed"
