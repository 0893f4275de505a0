from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.rollout.pace import LINE, SWITCH_SECONDS, Pace, expect, pace_of, pull_event, sizes_to_pull
from provisioner.domain.rollout.plan import Plan, Step
from provisioner.domain.rollout.report import Access, NodeRecord, RolloutReport
from provisioner.domain.values.event import RecordedEvent

_SIZES = st.lists(st.integers(0, 10**11), max_size=200)
_PACES = st.builds(
    Pace,
    st.none() | st.floats(1, 1e11, allow_nan=False, allow_infinity=False),
    st.none() | st.floats(0, 3600, allow_nan=False, allow_infinity=False),
)
NOW = datetime(2026, 12, 1, tzinfo=UTC)


def test_fifty_nodes_over_one_line_take_an_hour_and_after_a_fetch_minutes() -> None:
    found = expect([8_100_000_000] * 50, 3, Pace())
    assert (round(found.pulls / 60), round(found.waves / 60)) == (60, 3)


@given(sizes=_SIZES, waves=st.integers(0, 20), pace=_PACES)
def test_more_nodes_bytes_and_waves_never_take_less(sizes: list[int], waves: int, pace: Pace) -> None:
    found = expect(sizes, waves, pace)
    assert found.pulls >= 0
    assert found.waves >= 0
    assert expect([*sizes, 10**9], waves, pace).total >= found.total
    assert expect([size + 1 for size in sizes], waves + 1, pace).total >= found.total
    assert expect([], waves, pace).total == found.waves


def recorded(*rates: float) -> list[RecordedEvent]:
    return [RecordedEvent(seq=1, at=NOW, event=pull_event(round(rate * 10), 10)) for rate in rates]


def reports(*seconds: float) -> list[RolloutReport]:
    access = Access.model_construct(jupyter="", ssh="", host_key="")
    nodes = [NodeRecord(node="n", state="committed", seconds=each) for each in seconds]
    nodes = [node.model_copy(update={"access": access}) for node in nodes]
    return [RolloutReport(lab="l", run="r", started_at=NOW, ended_at=NOW).model_copy(update={"nodes": tuple(nodes)})]


@pytest.mark.parametrize(
    ("rates", "seconds", "pull", "switch"),
    [((), (), LINE, SWITCH_SECONDS), ((50e6, 1e6, 60e6), (20, 30, 400), 50e6, 30)],
)
def test_the_median_of_earlier_runs_counts(
    rates: Sequence[float], seconds: Sequence[float], pull: float, switch: float
) -> None:
    pace = pace_of(recorded(*rates), reports(*seconds))
    found = expect([1_000_000_000], 2, pace)
    assert found.pulls == pytest.approx(1_000_000_000 / pull)
    assert found.waves == 2 * switch


def test_an_image_that_seats_of_a_node_share_counts_once_and_a_deferred_seat_not_at_all() -> None:
    steps = [
        Step(node="n1", seat="a", action="create", why="", image="i", bytes_to_pull=5),
        Step(node="n1", seat="b", action="create", why="", image="i", bytes_to_pull=5),
        Step(node="n1", seat="c", action="update", why="", image="j", bytes_to_pull=2),
        Step(node="n2", seat="d", action="create", why="", image="i", bytes_to_pull=0),
        Step(node="n3", seat="e", action="defer", why="", image="i", bytes_to_pull=5),
    ]
    assert sizes_to_pull(Plan(lab="l", image=None, steps=tuple(steps))) == [7]
