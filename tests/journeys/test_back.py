"""Back to what ran before, on real nodes whose registry has gone."""

import json
from collections.abc import Iterator

import pytest

from tests.journeys.small_lab import NODES, SmallLab, small_lab
from tests.lab.engine import Engine

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def small(testbed: Engine) -> Iterator[SmallLab]:
    with small_lab(testbed) as lab:
        yield lab


def test_back_and_forward_again(small: SmallLab) -> None:
    for image in ("1", "2"):
        small.lock(image)
        assert small.states("rollout", "--yes") == (0, dict.fromkeys(NODES, "committed"))
    small.lab.registry.stop()
    assert small.states("rollback", "--yes") == (0, dict.fromkeys(NODES, "committed"))
    assert small.running() == dict.fromkeys(NODES, "1")
    assert small.claims() == dict.fromkeys(NODES, "")
    small.lab.registry.start()
    code, document, _ = small.tell("status")
    assert code == 3
    for seat in document["seats"]:
        assert seat["drift"] == "the image changes"
        assert seat["remarks"][0].startswith("brought back on purpose by "), json.dumps(seat)
    assert small.states("resume") == (0, {})
    assert small.states("rollout", "--yes") == (0, dict.fromkeys(NODES, "committed"))
    assert small.running() == dict.fromkeys(NODES, "2")
