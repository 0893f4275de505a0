"""Runs on real nodes that are interrupted, killed, suspended, overtaken or disconnected.

Each of them ends in the same state as an undisturbed run.
"""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.journeys.small_lab import NODES, SmallLab, find_leftovers

pytestmark = pytest.mark.lab

# A dead connection is given up after 10 s instead of 30 s.
SHORT_TIMEOUT = "-C -o ControlMaster=auto -o ControlPersist=60s -o ServerAliveInterval=5 -o ServerAliveCountMax=2"
ALL_COMMITTED = dict.fromkeys(NODES, "committed")
NO_CLAIMS = dict.fromkeys(NODES, "")


@pytest.fixture
def outdated_lab(small: SmallLab) -> SmallLab:
    """Both nodes serve image 1 or both serve image 2; the lock names the other one."""
    running = set(small.running_images().values())
    if len(running) != 1 or not running <= {"1", "2"}:
        small.lock("1")
        code, states = small.states("rollout", "--yes")
        assert code == 0, states
        running = {"1"}
    small.wanted = "2" if running == {"1"} else "1"
    small.lock(small.wanted)
    return small


def is_converged(lab: SmallLab) -> bool:
    return (lab.running_images(), lab.claims()) == (dict.fromkeys(NODES, lab.wanted), NO_CLAIMS)


def test_a_run_that_is_interrupted_and_then_killed_ends_as_an_undisturbed_one(outdated_lab: SmallLab) -> None:
    """The first interrupt ends the run after the running jobs; its resume is killed; the next resume completes it."""
    with outdated_lab.in_terminal("rollout", "--yes") as run:
        run.wait_for("claim done")
        run.wait_for("node1: stage done")
        run.interrupt()
        code = run.exit_code()
    assert "stopping: running jobs are followed to their end" in run.output
    assert code == 130, run.output
    assert f"provision resume {outdated_lab.folder}" in " ".join(run.output.split())
    assert "Traceback" not in run.output
    assert (outdated_lab.claims(), find_leftovers(run.pid)) == (NO_CLAIMS, [])
    with outdated_lab.in_terminal("resume") as run:
        run.wait_for("node1: committed")
        run.kill()
        assert run.exit_code() == -signal.SIGKILL
    assert_a_resume_completes_the_run(outdated_lab)


@pytest.mark.long("chaos")  # tests/cli/test_signals.py holds the second signal, for every commit
def test_second_interrupt_ends_the_run_at_once_and_resume_completes_it(outdated_lab: SmallLab) -> None:
    with outdated_lab.in_terminal("rollout", "--yes") as run:
        run.wait_for("node1: stage done")
        run.interrupt()
        run.wait_for("stopping: ")
        run.interrupt()
        code = run.exit_code()
    assert code == 130, run.output
    assert f"provision resume {outdated_lab.folder}" in " ".join(run.output.split())
    assert "Traceback" not in run.output
    assert find_leftovers(run.pid) == []
    assert outdated_lab.states("resume") == (0, ALL_COMMITTED)
    assert is_converged(outdated_lab)


# tests/cli/test_crash.py covers every moment of a run, tests/playbooks/test_crashes.py every moment on a node.
@pytest.mark.long("chaos")
@pytest.mark.parametrize("moment", ["claim done", "node1: stage done", "node2: stage done"])
def test_a_killed_controller_is_resumed(outdated_lab: SmallLab, moment: str) -> None:
    with outdated_lab.in_terminal("rollout", "--yes") as run:
        run.wait_for(moment)
        run.kill()
        assert run.exit_code() == -signal.SIGKILL
    assert_a_resume_completes_the_run(outdated_lab)


def assert_a_resume_completes_the_run(lab: SmallLab) -> None:
    """Other runs are refused until a resume has completed the killed one; a second resume does nothing."""
    code, document, output = lab.run_json("rollout", "--yes")
    assert (code, document["problems"][0]["code"]) == (5, "claimed"), output
    assert lab.states("resume") == (0, ALL_COMMITTED)
    assert is_converged(lab)
    assert lab.states("resume") == (0, {})


def test_a_suspended_controller_is_fenced_after_another_took_over(outdated_lab: SmallLab) -> None:
    """The other admin works on another machine, with other records."""
    with outdated_lab.in_terminal("rollout", "--yes") as run:
        run.wait_for("node1: committed")
        os.kill(run.pid, signal.SIGSTOP)
        first = next((outdated_lab.state / "provisioner").glob("*/runs")).iterdir()
        name = max(path.name for path in first)
        own, outdated_lab.state = outdated_lab.state, outdated_lab.state.with_name("state-of-another")
        try:
            refused = outdated_lab.run_json("rollout", "--yes")
            taken = outdated_lab.states("rollout", "--yes", "--break-lock", name)
        finally:
            outdated_lab.state = own
        os.kill(run.pid, signal.SIGCONT)
        code = run.exit_code()
    assert (refused[0], refused[1]["problems"][0]["code"]) == (5, "claimed")
    assert name in refused[1]["problems"][0]["what"]
    assert taken == (0, {"node1": "unchanged", "node2": "committed"})
    assert (code, "fenced" in run.output) == (1, True), run.output
    assert is_converged(outdated_lab)


@pytest.fixture
def checked_lab(outdated_lab: SmallLab, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallLab]:
    """Check after the test that every seat keeps token, key and ports, and that no record has a token."""
    monkeypatch.setenv("ANSIBLE_SSH_ARGS", SHORT_TIMEOUT)
    before = outdated_lab.seat_identities()
    yield outdated_lab
    assert is_converged(outdated_lab)
    assert outdated_lab.seat_identities() == before
    tokens = [identity.split("ssh-ed25519")[0].strip() for identity in before.values()]
    assert all(len(token) == 64 for token in tokens)
    kept = outdated_lab.recorded_text()
    assert not [token for token in tokens if token in kept]


def test_an_unreachable_node_stops_the_run_before_any_change_unless_allowed(checked_lab: SmallLab) -> None:
    node, before = checked_lab.lab.node("node2"), (checked_lab.image_on("node1"), checked_lab.journal_states("node1"))
    node.stop()
    try:
        assert checked_lab.states("rollout", "--yes") == (1, {"node1": "not_started", "node2": "unreachable"})
        assert (checked_lab.image_on("node1"), checked_lab.journal_states("node1")) == before
        allowed = checked_lab.states("rollout", "--yes", "--allow-unreachable", "1")
        assert allowed == (1, {"node1": "committed", "node2": "unreachable"})
    finally:
        node.start()
    assert checked_lab.states("rollout", "--yes") == (0, {"node1": "unchanged", "node2": "committed"})


@pytest.fixture
def one_wave_lab(checked_lab: SmallLab) -> Iterator[SmallLab]:
    path = checked_lab.folder / "lab.yml"
    original = path.read_text()
    path.write_text(original.replace("rollout:\n", "rollout:\n  waves: [100%]\n"))
    yield checked_lab
    path.write_text(original)


@pytest.mark.long("chaos")  # the test below loses a node in the middle of a switch, for every commit
def test_a_node_lost_after_staging_keeps_its_image_and_the_rest_of_its_wave_goes_on(one_wave_lab: SmallLab) -> None:
    lab, before = one_wave_lab, one_wave_lab.image_on("node1")
    with lab.in_terminal("rollout", "--yes") as run:
        for name in NODES:
            run.wait_for(f"{name}: stage done")
        os.kill(run.pid, signal.SIGSTOP)
        with lab.lab.node("node1").mute():
            os.kill(run.pid, signal.SIGCONT)
            code = run.exit_code()
            assert (lab.image_on("node1"), lab.journal_states("node1")[-1]) == (before, "staged")
    assert (code, lab.recorded_states()) == (1, {"node1": "unknown", "node2": "committed"}), run.output
    assert lab.states("resume") == (0, ALL_COMMITTED)
    assert lab.states("resume") == (0, {})


def test_a_node_lost_during_a_switch_completes_it_and_no_further_wave_begins(checked_lab: SmallLab) -> None:
    before = checked_lab.image_on("node2")
    with checked_lab.in_terminal("rollout", "--yes") as run:
        run.wait_for("node1: stage done")
        wait_for_state_after(checked_lab, "node1", {"staged"})
        with checked_lab.lab.node("node1").mute():
            code = run.exit_code()
            assert wait_for_state_after(checked_lab, "node1", {"switching", "verifying"}) == "committed"
            assert checked_lab.running_images() == {"node1": checked_lab.wanted, "node2": before}
    assert (code, checked_lab.recorded_states()) == (1, {"node1": "unknown", "node2": "not_started"}), run.output
    assert "lost_contact" in run.output
    assert checked_lab.states("resume") == (0, ALL_COMMITTED)
    assert checked_lab.states("resume") == (0, {})


def wait_for_state_after(lab: SmallLab, node: str, states: set[str]) -> str:
    deadline = time.monotonic() + 120
    while (state := lab.journal_states(node)[-1]) in states:
        assert time.monotonic() < deadline, state
        time.sleep(0.5)
    return state
