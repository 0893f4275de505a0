"""Runs that are stopped, killed, put to sleep, overtaken or cut off from their nodes, which are real.

Every end is that of a run left in peace.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.small_lab import NODES, SmallLab

pytestmark = pytest.mark.lab

# So that a line that is dead is given up after ten seconds, not thirty.
IMPATIENT = "-C -o ControlMaster=auto -o ControlPersist=60s -o ServerAliveInterval=5 -o ServerAliveCountMax=2"
ALL_DONE = dict.fromkeys(NODES, "committed")
FREE = dict.fromkeys(NODES, "")


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
    assert "stopping: running jobs are followed to their end" in run.said
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


# Every moment is held by tests/cli/test_crash.py, and on a node by tests/playbooks/test_crashes.py.
MOMENTS = ["claim done", "node1: stage done", "node2: stage done"]


@pytest.mark.parametrize(
    "moment", ["node1: committed", *(pytest.param(m, marks=pytest.mark.long("chaos")) for m in MOMENTS)]
)
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


@pytest.fixture
def cut(changing: SmallLab, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallLab]:
    """In the end every seat has the face that it had, and no secret is in what was kept."""
    monkeypatch.setenv("ANSIBLE_SSH_ARGS", IMPATIENT)
    before = changing.faces()
    yield changing
    assert arrived(changing)
    assert changing.faces() == before
    tokens = [face.split("ssh-ed25519")[0].strip() for face in before.values()]
    assert all(len(token) == 64 for token in tokens)
    kept = changing.kept()
    assert not [token for token in tokens if token in kept]


def test_a_node_that_is_off_stops_the_run_before_it_begins_unless_it_was_allowed_for(cut: SmallLab) -> None:
    node, before = cut.lab.node("node2"), (cut.image_on("node1"), cut.steps("node1"))
    node.stop()
    try:
        assert cut.states("rollout", "--yes") == (1, {"node1": "not_started", "node2": "unreachable"})
        assert (cut.image_on("node1"), cut.steps("node1")) == before
        allowed = cut.states("rollout", "--yes", "--allow-unreachable", "1")
        assert allowed == (1, {"node1": "committed", "node2": "unreachable"})
    finally:
        node.start()
    assert cut.states("rollout", "--yes") == (0, {"node1": "unchanged", "node2": "committed"})
    assert cut.states("rollout", "--yes") == (0, dict.fromkeys(NODES, "unchanged"))


@pytest.fixture
def one_wave(cut: SmallLab) -> Iterator[SmallLab]:
    path = cut.folder / "lab.yml"
    wish = path.read_text()
    path.write_text(wish.replace("rollout:\n", "rollout:\n  waves: [100%]\n"))
    yield cut
    path.write_text(wish)


def test_a_node_that_is_lost_once_it_is_staged_keeps_what_it_has_and_its_mate_goes_on(one_wave: SmallLab) -> None:
    lab, before = one_wave, one_wave.image_on("node1")
    with lab.started("rollout", "--yes") as run:
        for name in NODES:
            run.until(f"{name}: stage done")
        os.kill(run.pid, signal.SIGSTOP)
        with lab.lab.node("node1").mute():
            os.kill(run.pid, signal.SIGCONT)
            code = run.code()
            assert (lab.image_on("node1"), lab.steps("node1")[-1]) == (before, "staged")
    assert (code, lab.ledger()) == (1, {"node1": "unknown", "node2": "committed"}), run.said
    assert lab.states("resume") == (0, ALL_DONE)
    assert lab.states("resume") == (0, {})


def test_a_node_that_is_lost_in_mid_switch_ends_it_alone_and_no_further_wave_begins(cut: SmallLab) -> None:
    before = cut.image_on("node2")
    with cut.started("rollout", "--yes") as run:
        run.until("node1: stage done")
        step_beyond(cut, "node1", {"staged"})
        with cut.lab.node("node1").mute():
            code = run.code()
            assert step_beyond(cut, "node1", {"switching", "verifying"}) == "committed"
            assert cut.running() == {"node1": cut.wanted, "node2": before}
    assert (code, cut.ledger()) == (1, {"node1": "unknown", "node2": "not_started"}), run.said
    assert "lost_contact" in run.said
    assert cut.states("resume") == (0, ALL_DONE)
    assert cut.states("resume") == (0, {})


def step_beyond(lab: SmallLab, node: str, steps: set[str]) -> str:
    deadline = time.monotonic() + 120
    while (step := lab.steps(node)[-1]) in steps:
        assert time.monotonic() < deadline, step
    return step
