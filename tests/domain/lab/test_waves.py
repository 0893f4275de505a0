import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from provisioner.domain.lab.lab import RolloutSettings
from provisioner.domain.lab.waves import Share, budget, pulls_at_once, waves

DEFAULT = RolloutSettings().waves
shares = st.one_of(st.integers(0, 60).map(str), st.integers(0, 100).map(lambda percent: f"{percent}%"))


@pytest.mark.parametrize(
    ("nodes", "asked", "sizes"),
    [
        (0, DEFAULT, []),
        (1, DEFAULT, [1]),
        (3, DEFAULT, [1, 2]),
        (5, DEFAULT, [1, 1, 3]),
        (50, DEFAULT, [1, 12, 37]),
        (200, DEFAULT, [1, 49, 150]),
        (10, ("2", "5"), [2, 3, 5]),
        (10, ("100%",), [10]),
        (3, ("50%",), [2, 1]),
        (4, ("9", "1"), [1, 3]),
    ],
)
def test_sizes(nodes: int, asked: tuple[str, ...], sizes: list[int]) -> None:
    assert [len(wave) for wave in waves([f"n{number}" for number in range(nodes)], asked)] == sizes


@given(st.lists(st.integers(), unique=True, max_size=60), st.lists(shares, max_size=6))
def test_every_node_is_in_exactly_one_wave_in_order_and_none_is_empty(numbers: list[int], asked: list[str]) -> None:
    nodes = [str(number) for number in numbers]
    made = waves(nodes, asked)
    assert [node for wave in made for node in wave] == nodes
    assert all(made)


@given(st.integers(1, 500), st.integers(1, 100))
def test_a_percentage_reaches_at_least_so_far(nodes: int, percent: int) -> None:
    first = len(waves([str(number) for number in range(nodes)], (f"{percent}%",))[0])
    assert (first - 1) * 100 < percent * nodes <= first * 100


@pytest.mark.parametrize(("share", "nodes", "most"), [("0", 9, 0), ("2", 9, 2), ("10%", 9, 0), ("10%", 50, 5)])
def test_budget(share: str, nodes: int, most: int) -> None:
    assert budget(share, nodes) == most


@given(st.integers(0, 100), st.integers(0, 1000))
def test_a_budget_is_never_more_than_was_allowed(percent: int, nodes: int) -> None:
    assert budget(f"{percent}%", nodes) * 100 <= percent * nodes


@pytest.mark.parametrize("wrong", ["", "-1", "101%", "1.5", "half", True, 2.5, "25 %"])
def test_what_is_no_share_is_refused(wrong: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Share).validate_python(wrong)


@pytest.mark.parametrize(
    ("line", "bytes_each", "seconds", "most"),
    [
        (None, 8_000_000_000, 7200, None),
        (100e6, 0, 7200, None),
        (100e6, 8_000_000_000, 7200, 45),
        (1e6, 8_000_000_000, 7200, 1),
        (1e9, 1_000_000, 60, 30_000),
    ],
)
def test_pulls_at_once(line: float | None, bytes_each: int, seconds: int, most: int | None) -> None:
    assert pulls_at_once(line, bytes_each, seconds) == most


@given(st.floats(1e3, 1e10), st.integers(1, 10**11), st.integers(60, 86400))
def test_no_pull_runs_into_its_deadline_where_one_alone_would_not(line: float, bytes_each: int, seconds: int) -> None:
    at_once = pulls_at_once(line, bytes_each, seconds)
    assert at_once == 1 or (at_once and at_once * bytes_each / line <= seconds / 2)
