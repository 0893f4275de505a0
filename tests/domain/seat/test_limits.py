from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from provisioner.domain.lab.lab import Limits
from provisioner.domain.seat.limits import build_limits
from provisioner.domain.values.limits import Capacity
from provisioner.domain.values.size import size_bytes

GIB = 1 << 30


@pytest.mark.parametrize(
    ("wanted", "memory", "expected"),
    [
        ({}, 67_270_000_000, ("56g", "8g")),
        ({}, 16 * GIB, ("14g", "7168m")),
        ({}, GIB, ("1g", "512m")),  # at least 1 GiB
        ({}, 512 << 20, ("1g", "512m")),
        ({}, None, (None, "8g")),
        ({"memory": "none"}, 64 * GIB, (None, "8g")),
        ({"memory": "6g"}, 64 * GIB, ("6g", "3072m")),
        ({"memory": "6g", "shm": "512m"}, 64 * GIB, ("6g", "512m")),
        ({"memory": "128g", "shm": "64g"}, 64 * GIB, ("128g", "64g")),
        ({"memory": "6m"}, 64 * GIB, ("6m", "3m")),
    ],
)
def test_memory_and_shared_memory(wanted: dict[str, Any], memory: int | None, expected: tuple[str | None, str]) -> None:
    limits = build_limits(Limits.model_validate(wanted), Capacity(memory=memory))
    assert (limits.memory, limits.shm) == expected


@pytest.mark.parametrize(
    ("wanted", "cpus", "expected"),
    [
        ("auto", 1, 1.0),
        ("auto", 2, 2.0),
        ("auto", 4, 3.0),
        ("auto", 64, 63.0),
        ("auto", None, None),
        ("none", 64, None),
        (8, 64, 8.0),
        (8, 4, 4.0),  # an engine refuses more CPUs than the node has
        (8, None, 8.0),
        ("1.5", 64, 1.5),
    ],
)
def test_cpus(wanted: Any, cpus: int | None, expected: float | None) -> None:
    assert build_limits(Limits(cpus=wanted), Capacity(cpus=cpus)).cpus == expected


@pytest.mark.parametrize("value", [True, 0, -1, 10**400, float("nan"), float("inf"), "many", "1e999", None, [], "None"])
def test_what_is_no_number_of_cpus_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match="neither a number of CPUs nor auto or none"):
        Limits(cpus=value)


@pytest.mark.parametrize(
    ("hard", "expected"),
    [(None, None), (20000, (20000, 20000)), (524288, (65536, 524288)), (1 << 30, (65536, 1048576))],
)
def test_open_files_are_never_more_than_the_engine_may_give(hard: int | None, expected: tuple[int, int] | None) -> None:
    found = build_limits(Limits(), Capacity(open_files=hard)).nofile
    assert (found and (found.soft, found.hard)) == expected


@given(st.integers(1, 1 << 45))
def test_a_tenth_of_the_memory_stays_free_except_of_the_smallest_nodes(memory: int) -> None:
    limit = build_limits(Limits(), Capacity(memory=memory)).memory
    assert limit is not None
    assert size_bytes(limit) >= GIB
    assert size_bytes(limit) <= max(memory * 0.9, GIB)
