"""Runs that are stopped, killed, put to sleep or overtaken, on real nodes: every end is that of a run left in peace."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.small_lab import NODES, SmallLab, small_lab
from tests.lab.engine import Engine

pytestmark = pytest.mark.lab

ALL_DONE = dict.fromkeys(NODES, "committed")
FREE = dict.fromkeys(NODES, "")


@pytest.fixture(scope="module")
def small(testbed: Engine) -> Iterator[SmallLab]:
    with small_lab(testbed) as lab:
        yield lab


@pytest.fixture
def changing(small: SmallLab) -> SmallLab:
    """Both nodes serve image 1 or 2, and the lab is held to the other one."""
    running = set(small.running().values())
    if len(running) != 1 or not running <= {"1", "2"}:
        small.lock("1")
        code, states = small.states("rollout", "--yes")
        assert code == 0, states
        running = {"1"}
    small.wanted = "2" if running == {"1"} else "1"
    small.lock(small.wanted)
    return small


def arrived(lab: SmallLab) -> bool:
    return (lab.running(), lab.claims()) == (dict.fromkeys(NODES, lab.wanted), FREE)


def of_the_play(folder: Path) -> list[str]:
    """Processes that a play has left: whatever has the folder in its environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append((path.parent / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_one_interrupt_ends_the_run_after_what_is_at_work(changing: SmallLab) -> None:
    with changing.started("rollout", "--yes") as run:
        run.until("claim done")
        run.until("node1: stage done")
        run.interrupt()
        code = run.code()
    assert "stopping: what is at work now is followed to its end" in run.said
    assert code == 130, run.said
    assert f"provision resume {changing.folder}" in " ".join(run.said.split())
    assert "Traceback" not in run.said
    assert (changing.claims(), left_over(run.pid)) == (FREE, [])
    assert changing.states("resume") == (0, ALL_DONE)
    assert arrived(changing)
    assert changing.states("resume") == (0, {})


def left_over(pid: int) -> list[str]:
    """Folders that a run has left, and processes that have one of its folders in their environment."""
    deadline = time.monotonic() + 30
    while True:
        found = [*of_the_play(Path(f"/tmp/prov-{pid}-")), *map(str, Path("/tmp").glob(f"prov-{pid}-*"))]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def test_two_interrupts_leave_the_nodes_to_themselves(changing: SmallLab) -> None:
    with changing.started("rollout", "--yes") as run:
        run.until("node1: stage done")
        run.interrupt()
        run.until("stopping: ")
        run.interrupt()
        code = run.code()
    assert code == 130, run.said
    assert f"provision resume {changing.folder}" in " ".join(run.said.split())
    assert "Traceback" not in run.said
    assert left_over(run.pid) == []
    assert changing.states("resume") == (0, ALL_DONE)
    assert arrived(changing)


@pytest.mark.parametrize("moment", ["claim done", "node1: stage done", "node1: committed", "node2: stage done"])
def test_a_controller_that_was_killed_is_resumed(changing: SmallLab, moment: str) -> None:
    with changing.started("rollout", "--yes") as run:
        run.until(moment)
        run.kill()
        assert run.code() == -signal.SIGKILL
    code, document, people = changing.tell("rollout", "--yes")
    assert (code, document["problems"][0]["code"]) == (5, "claimed"), people
    code, states = changing.states("resume")
    assert (code, states) == (0, ALL_DONE)
    assert arrived(changing)
    assert changing.states("resume") == (0, {})


def test_a_controller_that_slept_while_another_took_over_writes_nothing(changing: SmallLab) -> None:
    """Another admin, on another machine: with records of their own."""
    with changing.started("rollout", "--yes") as run:
        run.until("node1: committed")
        os.kill(run.pid, signal.SIGSTOP)
        first = next((changing.state / "provisioner").glob("*/runs")).iterdir()
        name = max(path.name for path in first)
        mine, changing.state = changing.state, changing.state.with_name("state-of-another")
        try:
            refused = changing.tell("rollout", "--yes")
            taken = changing.states("rollout", "--yes", "--break-lock", name)
        finally:
            changing.state = mine
        os.kill(run.pid, signal.SIGCONT)
        code = run.code()
    assert (refused[0], refused[1]["problems"][0]["code"]) == (5, "claimed")
    assert name in refused[1]["problems"][0]["what"]
    assert taken == (0, {"node1": "unchanged", "node2": "committed"})
    assert (code, "fenced" in run.said) == (1, True), run.said
    assert arrived(changing)
