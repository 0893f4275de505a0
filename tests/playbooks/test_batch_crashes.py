"""SIGKILL of the batch of five seats, of the jobs of its seats or of both, and a power cut, at every boundary.

Each seat ends on old or on new and runs; no GPU has two users; a further run completes what is left.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.batch_crashes import NAMES, CrashingNode, Gpus
from tests.playbooks.crashes import with_image
from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.fake_nvml import a_gpu
from tests.playbooks.node_code import module_util

pytestmark = pytest.mark.usefixtures("_short_waits")

OWN = {name: f"GPU-{name}" for name in NAMES}
# ml_e leaves and ml_b gives up its GPU: others get them.
HANDED_ON = {"ml_a": OWN["ml_b"], "ml_b": "", "ml_c": OWN["ml_e"], "ml_d": OWN["ml_d"]}

# Of the third seat, unless the boundary names another one.
SWITCH = [
    "before the job switch",
    "after the job switch began",
    "before journal switching",
    "after journal switching",
    "up 2: nothing stopped yet",
    "up 2: old stopped, new not started",
    "up 2: started",
    "before journal verifying",
    "after journal verifying",
    "while it is verified",
    "before current 2",
    "after current 2",
    "before journal committed",
    "after journal committed",
]
STAGE = [
    "before the job stage",
    "after the job stage began",
    "before generation 2",
    "after generation 2",
    "before journal staged",
    "after journal staged",
]
OF_NODE = ["before the job switch, ml_a", "after the job switch began, ml_e", "before the release", "after the release"]
HAND_OVER = [
    *(
        f"{boundary}, {name}"
        for name in ("ml_a", "ml_b", "ml_c")
        for boundary in ("up 2: old stopped, new not started", "while it is verified", "after current 2")
    ),
    *(
        f"{boundary}, ml_e"
        for boundary in (
            "before journal stopping",
            "down: nothing stopped yet",
            "down: stopped",
            "after journal stopped",
        )
    ),
]
# A power cut kills all, too, and more happens after it.
ALL = pytest.param("all", marks=pytest.mark.long("roster"))
MakeNode = Callable[[Gpus, Gpus], CrashingNode]


@pytest.fixture
def make_node(
    tmp_path: Path, engine: FakeEngine, idle: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> MakeNode:
    """Function that makes a node of 8 cores, which switches two seats at once."""
    with_image(engine)
    idle[:] = [a_gpu(gpu) for gpu in OWN.values()]
    accounts = {"passwd": "root:x:0:0::/root:/bin/sh\n", "group": "root:x:0:\n"}
    monkeypatch.setattr(module_util("transaction.stage"), "image_accounts", lambda _: accounts)
    monkeypatch.setattr(module_util("transaction.stage"), "check_home_parents", lambda _: None)
    monkeypatch.setattr(module_util("seat.precheck"), "compose_version", lambda: "2.26.1")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    return lambda before, after: CrashingNode(tmp_path, monkeypatch, before, after)


def states(record: dict[str, Any]) -> dict[str, str]:
    return {name: one["state"] for name, one in record["seats"].items()}


def interrupt(node: CrashingNode, how: str, path: Path) -> None:
    """Kill the batch, the running jobs of seats or all at the boundary; after `power`, recover at boot."""
    node.kill(path, how if how in {"batch", "seats"} else "all")
    if how == "seats":
        assert set(states(node.finish(path)).values()) <= {"committed", "staged", "unknown", "deferred"}
    if how == "power":
        node.restart()
        assert set(node.generations().values()) <= {0, 1, 2}


def complete(node: CrashingNode, how: str) -> dict[str, Any]:
    """Resume the run; after a power cut, run again for the seats that are on the old generation."""
    left = [name for name, number in node.generations().items() if number == 1] if how == "power" else []
    return node.carry_out("switch", "r2", 9, left) if left else node.carry_out("switch", "r1", 9)


def check_complete(node: CrashingNode, how: str, record: dict[str, Any]) -> None:
    """All is as after an undisturbed run, and the same again changes nothing."""
    assert set(states(record).values()) <= {"committed", "unchanged"}, record
    assert (record["released"], node.claim()) == (True, None)
    assert node.generations() == {name: 2 if name in node.after else 0 for name in NAMES}
    assert not node.conflicts.exists(), node.conflicts.read_text()
    disk = node.disk()
    if how != "power":
        assert states(node.carry_out("switch", "r1", 10)).keys() == set(NAMES)
        assert node.disk() == disk


@pytest.mark.parametrize("how", ["batch", "seats", "power", ALL])
@pytest.mark.parametrize("boundary", [*(f"{name}, ml_c" for name in SWITCH), *OF_NODE])
def test_a_switch_of_five_seats_killed_at_any_boundary_is_completed(
    make_node: MakeNode, boundary: str, how: str
) -> None:
    node = make_node(OWN, OWN)
    identities, node.at.stop = node.identities(), boundary
    interrupt(node, how, node.start("switch", "r1", 1))
    check_complete(node, how, complete(node, how))
    assert node.identities() == identities


@pytest.mark.parametrize("how", ["batch", "power", ALL])
@pytest.mark.parametrize("boundary", [f"{name}, ml_c" for name in STAGE])
def test_the_staging_of_five_seats_killed_at_any_boundary_changes_none_and_is_completed(
    make_node: MakeNode, boundary: str, how: str
) -> None:
    node = make_node(OWN, OWN)
    for world in node.worlds.values():
        world.seat.delete_generation(2)
    identities, node.at.stop = node.identities(), boundary
    interrupt(node, how, node.start("stage", "r1", 1))
    assert node.generations() == dict.fromkeys(NAMES, 1)
    run = "r2" if how == "power" else "r1"
    record = node.carry_out("stage", run, 2)
    assert (set(states(record).values()), record["released"]) == ({"staged"}, False)
    check_complete(node, how, complete(node, how))
    assert all(world.seat.numbers() == [1, 2] for world in node.worlds.values())
    assert node.identities() == identities


@pytest.mark.parametrize("how", ["seats", "power", ALL])
@pytest.mark.parametrize("boundary", HAND_OVER)
def test_a_gpu_that_is_handed_on_has_one_user_whatever_is_killed(make_node: MakeNode, boundary: str, how: str) -> None:
    node = make_node(OWN, HANDED_ON)
    node.at.stop = boundary
    interrupt(node, how, node.start("switch", "r1", 1))
    check_complete(node, how, complete(node, how))
