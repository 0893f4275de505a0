"""The use of the disk in the status of a seat."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from provisioner.domain.rollout.status import disk_problems, disk_size, is_above_limit
from provisioner.domain.values.node import DiskUse

GIB = 1 << 30
AT = datetime(2026, 11, 30, 3, 12, tzinfo=UTC)


def a_use(**over: Any) -> DiskUse:
    given = {"measured_at": AT, "home_bytes": 97 * GIB, "layer_bytes": 4 * GIB, "complete": True}
    return DiskUse.model_validate(given | over)


@pytest.mark.parametrize(
    ("use", "limit", "is_above"),
    [
        (a_use(), 101 * GIB, True),
        (a_use(), 101 * GIB + 1, False),
        (a_use(complete=False), 100 * GIB, True),
        (a_use(layer_bytes=None), 98 * GIB, False),
        (a_use(), None, False),
        (None, 1, False),
        (None, None, False),
    ],
)
def test_a_seat_is_above_its_limit_from_the_limit_on(use: DiskUse | None, limit: int | None, is_above: bool) -> None:
    assert is_above_limit(use, limit) is is_above
    assert bool(disk_problems("n1", "ml_anna", use, limit)) is is_above


@pytest.mark.parametrize(("use", "text"), [(a_use(), "101 GiB"), (a_use(complete=False), "≥ 101 GiB")])
def test_an_incomplete_measurement_has_a_sign(use: DiskUse, text: str) -> None:
    assert disk_size(use) == text
    (problem,) = disk_problems("n1", "ml_anna", use, 100 * GIB)
    assert problem.what == f"n1: ml_anna used {text} of 100 GiB on 2026-11-30"
    assert (problem.code, problem.node) == ("disk_limit_reached", "n1")


@pytest.mark.parametrize("lie", [{"home_bytes": -1}, {"home_bytes": 1 << 63}, {"measured_at": "yesterday"}])
def test_numbers_of_a_node_are_bounded(lie: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        a_use(**lie)
