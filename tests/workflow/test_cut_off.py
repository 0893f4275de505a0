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

from provisioner.domain.event import Event, Recorded
from provisioner.domain.report import BAD, NodeState
from provisioner.domain.undertaking import Rules, Undertaking, set_out
from provisioner.workflow.claims import fence_above
from provisioner.workflow.resume import heard, resume, stand
from provisioner.workflow.rollout import carry_through, never
from tests.workflow.fake_crew import FakeCrew, a_claim, a_plan, an_order
from tests.workflow.test_rollout import states

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
        FakeCrew(folder).add(*NODES, generation=1)
        plan = a_plan(dict.fromkeys(NODES, "update"), generation=1)
        orders = {node: an_order(node) for node in NODES}
        self.what: Undertaking = set_out("r1", plan, orders, rules, NOW).held_by(a_claim())

    def hear(self, event: Event) -> None:
        self.recorded.append(Recorded(seq=len(self.recorded) + 1, at=NOW, event=event))

    def undisturbed(self) -> dict[str, NodeState]:
        return states(carry_through(self.what, FakeCrew(self.folder, self.ends), self.hear, never))

    def cut_off(self, moments: list[int]) -> dict[str, NodeState]:
        """Killed after so many moments, resumed, killed again, …; until one comes to its end."""
        try:
            return states(carry_through(self.what, self._dying(moments), self.hear, never))
        except Killed:
            return self._resumed(moments[1:])

    def _resumed(self, moments: list[int]) -> dict[str, NodeState]:
        crew, ended = self._dying(moments), heard(self.recorded)
        try:
            probed = crew.probe(NODES)
            what = self.what.held_by(a_claim(fence=fence_above(probed)))
            return states(resume(what, stand(what, ended, probed), crew, self.hear))
        except Killed:
            return self._resumed(moments[1:])

    def _dying(self, moments: list[int]) -> FakeCrew:
        left = moments[0] if moments else -1

        def at(_moment: str) -> None:
            nonlocal left
            left -= 1
            if left == -1 and moments:
                raise Killed

        return FakeCrew(self.folder, self.ends, at)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
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
        assert FakeCrew(Path(other)).alive() == dict.fromkeys(NODES), "nothing stays claimed"
