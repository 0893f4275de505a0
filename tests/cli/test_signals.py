"""SIGINT and SIGTERM during a run: once, twice, from a terminal and from a program."""

import json
import os
import pty
import signal
import sys
from pathlib import Path

import pytest

from tests.cli.controlled_lab import COMMITTED, NODES, ControlledLab, ended, wait_for_output

DEFAULT_SIGNALS = ("env", "--default-signal=INT", "--default-signal=TERM")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_completes_running_jobs_and_starts_no_further_one(
    lab: ControlledLab, tmp_path: Path, number: int
) -> None:
    with lab.start("rollout", "switch before n1", *DEFAULT_SIGNALS) as run:
        run.send_signal(number)
        wait_for_output(run, "stopping: ")
        (tmp_path / "go").touch()
        out, err = run.communicate()
    report = json.loads(out)
    assert (run.returncode, report["stopped"]["fix"]) == (130, "provision resume inventories/demo"), err
    assert ended(report) == {"n1": "committed", "n2": "not_started", "n3": "not_started"}
    assert lab.fleet.claims_by_node() == dict.fromkeys(NODES)
    assert "Traceback" not in err
    assert lab.run("resume").returncode == 0
    assert lab.node_states() == COMMITTED


def test_a_signal_during_the_last_wave_leaves_nothing_to_resume(lab: ControlledLab, tmp_path: Path) -> None:
    with lab.start("rollout", "switch after n2", *DEFAULT_SIGNALS) as run:
        run.send_signal(signal.SIGINT)
        wait_for_output(run, "stopping: ")
        (tmp_path / "go").touch()
        out, _ = run.communicate()
    assert (run.returncode, set(ended(json.loads(out)).values())) == (0, {"committed"})


def test_the_second_signal_ends_the_run_releases_the_lab_and_names_the_resume_command(lab: ControlledLab) -> None:
    with lab.start("rollout", "switch before n2", *DEFAULT_SIGNALS) as run:
        run.send_signal(signal.SIGINT)
        wait_for_output(run, "stopping: ")
        run.send_signal(signal.SIGINT)
        out, err = run.communicate()
    (problem,) = json.loads(out)["problems"]
    assert (run.returncode, problem["fix"]) == (130, "provision resume inventories/demo")
    assert "Traceback" not in err
    assert not list(lab.state.glob("provisioner/demo/runs/*/report.json"))
    assert lab.run("resume").returncode == 0
    assert lab.node_states() == COMMITTED


def test_interrupt_from_a_terminal(lab: ControlledLab, tmp_path: Path) -> None:
    """The kernel sends SIGINT to every process in the foreground, not to the controller only."""
    pid, terminal = pty.fork()
    if not pid:
        os.environ["XDG_STATE_HOME"] = str(lab.state)
        argv = [*DEFAULT_SIGNALS, sys.executable, "-m", "tests.cli.controller", "rollout", str(lab.nodes)]
        os.execvp("env", [*argv, "--wait", "stage before n1"])
    said = read_until(terminal, "waiting")
    os.write(terminal, b"\x03")
    said += read_until(terminal, "stopping: ")
    (tmp_path / "go").touch()
    said += read_until(terminal, "")
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130, said
    assert set(ended(lab.report()).values()) == {"not_started"}
    assert lab.fleet.claims_by_node() == dict.fromkeys(NODES)


def read_until(terminal: int, text: str) -> str:
    """Read until `text` appears, or to the end where it is empty."""
    said = ""
    while not text or text not in said:
        try:
            chunk = os.read(terminal, 4096)
        except OSError:  # EIO: no process has it open any more
            return said
        said += chunk.decode(errors="replace")
    return said


def test_a_signal_that_the_shell_ignores_stays_ignored(lab: ControlledLab, tmp_path: Path) -> None:
    with lab.start("rollout", "switch before n1", "env", "--ignore-signal=INT") as run:
        run.send_signal(signal.SIGINT)
        (tmp_path / "go").touch()
        out, _ = run.communicate()
    assert (run.returncode, set(ended(json.loads(out)).values())) == (0, {"committed"})


def test_a_signal_before_the_first_change_ends_the_run_at_once(lab: ControlledLab) -> None:
    with lab.start("rollout", "probe before n2", *DEFAULT_SIGNALS) as run:
        run.send_signal(signal.SIGTERM)
        out, err = run.communicate()
    (problem,) = json.loads(out)["problems"]
    assert (run.returncode, problem["code"]) == (130, "interrupted")
    assert "Traceback" not in err
    assert lab.run("rollout").returncode == 0
