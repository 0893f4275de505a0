"""The law of the budget, for waves of any shape: no step begins once too many nodes failed; no node is lost."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.lab.waves import budget, waves
from provisioner.domain.rollout.report import BAD, NodeRecord, NodeState, SeatRecord, build_node_record
from provisioner.workflow.protocols import StopRequested
from provisioner.workflow.rollout.waves import WaveRun, WavesResult, WaveStep, run_all_waves
from tests.costly import costly
from tests.workflow.fake_fleet import SEAT, a_context

SHARES = st.sampled_from(["0", "1", "3", "1%", "2%", "10%"])
STAGED: list[NodeState] = ["staged", "failed", "unreachable", "stale"]
SWITCHED: list[NodeState] = ["committed", "rolled_back", "unknown", "needs_attention", "deferred"]
NODES = [f"n{number}" for number in range(200)]


class FakeWaves:
    """Nodes with given final states; `bad_at_step` has how many had failed when each step of a wave began."""

    def __init__(self, staged: Mapping[str, NodeState], switched: Mapping[str, NodeState]) -> None:
        self.ends = (staged, switched)
        self.bad_at_step: list[int] = []
        self._switched: set[str] = set()

    def bad(self, nodes: Iterable[str]) -> int:
        """Return how many of these nodes have failed. One that was staged ahead counts once its wave has begun."""
        return sum(
            self.ends[0][node] in BAD or (node in self._switched and self.ends[1][node] in BAD) for node in nodes
        )

    def apply_step(self, number: int, nodes: Mapping[str, Mapping[str, None]]) -> Mapping[str, NodeRecord]:
        self.bad_at_step.append(self.bad(NODES[: NODES.index(list(nodes)[-number]) + number]))
        self._switched |= set(nodes) if number else set()
        return {node: build_node_record(node, [SeatRecord(seat=SEAT, state=self.ends[number][node])]) for node in nodes}

    def stage_ahead(self, nodes: Mapping[str, Mapping[str, None]], _stop: StopRequested) -> Mapping[str, NodeRecord]:
        return {node: build_node_record(node, [SeatRecord(seat=SEAT, state=self.ends[0][node])]) for node in nodes}

    def run(self, shares: Sequence[str], most: int, *, ahead: bool) -> WavesResult:
        orders = {node: {SEAT: None} for node in NODES}
        stage = WaveStep(partial(self.apply_step, 0), orders, ahead=self.stage_ahead if ahead else None)
        wave_run = WaveRun(waves(NODES, shares), (stage, WaveStep(partial(self.apply_step, 1), orders)), most)
        return run_all_waves(wave_run, {}, a_context())


def random_states(fails: float, rng: Random, states: Sequence[NodeState]) -> dict[str, NodeState]:
    """The first of `states`, or one of the others with probability `fails`."""
    return {node: rng.choice(states[1:]) if rng.random() < fails else states[0] for node in NODES}


@costly
@given(
    fails=st.sampled_from([0.0, 0.005, 0.01, 0.1]),
    rng=st.randoms(use_true_random=False),
    shares=st.lists(st.sampled_from(["1", "2", "10", "25%", "50%", "100%"]), min_size=1, max_size=4),
    share=SHARES,
    ahead=st.booleans(),
)
def test_no_step_begins_beyond_the_budget_and_within_it_every_node_ends(
    fails: float, rng: Random, shares: list[str], share: str, *, ahead: bool
) -> None:
    most = budget(share, len(NODES))
    fake = FakeWaves(random_states(fails, rng, STAGED), random_states(fails, rng, SWITCHED))
    ended = fake.run(shares, most, ahead=ahead)
    bad = fake.bad(ended.records)
    assert max(fake.bad_at_step) <= most
    assert sum(record.state in BAD for record in ended.records.values()) == bad
    assert "staged" not in {record.state for record in ended.records.values()}
    if bad <= most:
        assert (ended.stopped, set(ended.records)) == (None, set(NODES))
    elif ended.stopped is None:
        assert set(ended.records) == set(NODES), "the budget was exceeded only by the last step"
    else:
        assert ended.stopped.code == "too_many_failures"
        assert set(ended.records) < set(NODES)
