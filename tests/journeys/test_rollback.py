"""Rollback on real nodes: on request and without a registry, and of a generation that does not verify."""

import json

import pytest

from tests.journeys.small_lab import NODES, SmallLab

WITHOUT_SSH = "4"

pytestmark = pytest.mark.lab


def two_generations(lab: SmallLab) -> tuple[str, str]:
    """Return the numbers of the older and the newer image of both seats, as the file before leaves them."""
    running = set(lab.running_images().values())
    if running in ({"1"}, {"2"}) and all(lab.journal_states(node).count("committed") > 1 for node in NODES):
        return ("2", "1") if running == {"1"} else ("1", "2")
    for image in ("1", "2"):
        lab.lock(image)
        assert lab.states("rollout", "--yes") == (0, dict.fromkeys(NODES, "committed"))
    return "1", "2"


def test_rollback_without_a_registry(small: SmallLab) -> None:
    older, newer = two_generations(small)
    small.lock(newer)
    small.lab.registry.stop()
    assert small.states("rollback", "--yes") == (0, dict.fromkeys(NODES, "committed"))
    assert small.running_images() == dict.fromkeys(NODES, older)
    assert small.claims() == dict.fromkeys(NODES, "")
    small.lab.registry.start()
    code, document, _ = small.run_json("status")
    assert code == 3
    for seat in document["seats"]:
        assert seat["drift"] == "the image changes"
        assert seat["remarks"][0].startswith("rolled back on purpose by "), json.dumps(seat)
    assert small.states("resume") == (0, {})


def test_a_rollout_that_fails_on_the_first_node_stops_there(small: SmallLab) -> None:
    running, identities = small.running_images(), small.seat_identities()
    small.lock(WITHOUT_SSH)
    code, document, output = small.run_json("rollout", "--yes")
    assert (code, small.recorded_states()) == (1, {"node1": "rolled_back", "node2": "not_started"}), output
    assert document["stopped"]["code"] == "too_many_failures"
    assert (small.running_images(), small.seat_identities()) == (running, identities)
    assert small.claims() == dict.fromkeys(NODES, "")
    assert small.states("resume") == (0, {})
