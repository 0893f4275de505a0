"""The law of the budget, on courses of any shape: nothing begins once more than may have ended badly; none is lost."""

from collections.abc import Mapping, Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.lab.waves import budget, waves
from provisioner.domain.rollout.report import BAD, NodeRecord, NodeState
from provisioner.workflow.rollout.run import never
from provisioner.workflow.rollout.waves import WaveRun, WavesResult, run_all_waves

SHARES = st.sampled_from(["0", "1", "3", "1%", "2%", "10%"])
STAGED: list[NodeState] = ["staged", "failed", "unreachable", "stale"]
SWITCHED: list[NodeState] = ["committed", "rolled_back", "unknown", "needs_attention", "deferred"]
NODES = [f"n{number}" for number in range(200)]


class Lab:
    """Nodes that end as they are told to; `asked` has how many had ended badly when an act began."""

    def __init__(self, staged: Mapping[str, NodeState], switched: Mapping[str, NodeState]) -> None:
        self.ends = (staged, switched)
        self.bad = 0
        self.asked: list[int] = []

    def act(self, number: int, nodes: Sequence[str]) -> Mapping[str, NodeRecord]:
        self.asked.append(self.bad)
        records = {node: NodeRecord(node=node, state=self.ends[number][node]) for node in nodes}
        self.bad += sum(record.state in BAD for record in records.values())
        return records

    def go(self, shares: Sequence[str], most: int) -> WavesResult:
        acts = (lambda nodes: self.act(0, nodes), lambda nodes: self.act(1, nodes))
        return run_all_waves(WaveRun(waves(NODES, shares), acts, most, never), {}, lambda _: None)


def some(fails: float, dice: Random, states: Sequence[NodeState]) -> dict[str, NodeState]:
    """The first of `states`, and any of the others with this chance."""
    return {node: dice.choice(states[1:]) if dice.random() < fails else states[0] for node in NODES}


@given(
    fails=st.sampled_from([0.0, 0.005, 0.01, 0.1]),
    dice=st.randoms(use_true_random=False),
    shares=st.lists(st.sampled_from(["1", "2", "10", "25%", "50%", "100%"]), min_size=1, max_size=4),
    share=SHARES,
)
def test_no_act_begins_beyond_the_budget_and_within_it_all_nodes_come_to_an_end(
    fails: float, dice: Random, shares: list[str], share: str
) -> None:
    most = budget(share, len(NODES))
    lab = Lab(some(fails, dice, STAGED), some(fails, dice, SWITCHED))
    ended = lab.go(shares, most)
    assert max(lab.asked) <= most
    assert sum(record.state in BAD for record in ended.records.values()) == lab.bad
    assert "staged" not in {record.state for record in ended.records.values()}
    if lab.bad <= most:
        assert (ended.stopped, set(ended.records)) == (None, set(NODES))
    elif ended.stopped is None:
        assert set(ended.records) == set(NODES), "it was too much only in the end"
    else:
        assert ended.stopped.code == "too_many_failures"
        assert set(ended.records) < set(NODES)
