"""Back to what ran before, on real nodes: on purpose, without a registry; and because the new one does not verify."""

import json

import pytest

from tests.journeys.small_lab import NODES, SmallLab

WITHOUT_SSH = "4"

pytestmark = pytest.mark.lab


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
        assert seat["remarks"][0].startswith("rolled back on purpose by "), json.dumps(seat)
    assert small.states("resume") == (0, {})
    assert small.states("rollout", "--yes") == (0, dict.fromkeys(NODES, "committed"))
    assert small.running() == dict.fromkeys(NODES, "2")


def test_what_fails_on_the_first_node_goes_no_further(small: SmallLab) -> None:
    running, faces = small.running(), small.faces()
    small.lock(WITHOUT_SSH)
    code, document, people = small.tell("rollout", "--yes")
    assert (code, small.ledger()) == (1, {"node1": "rolled_back", "node2": "not_started"}), people
    assert document["stopped"]["code"] == "too_many_failures"
    assert (small.running(), small.faces()) == (running, faces)
    assert small.claims() == dict.fromkeys(NODES, "")
    assert small.states("resume") == (0, {})
