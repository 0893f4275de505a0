"""^C and its kin on a run over nodes that are small files: once, twice, from a terminal and from a program."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_crash import NODES, UNDISTURBED, Controlled, ended


def waiting(lab: Controlled, moment: str, *before: str) -> subprocess.Popen[str]:
    """A rollout that has come to this moment and waits there for a file `go`."""
    argv = [*before, sys.executable, "-m", "tests.cli.controller", "rollout", str(lab.nodes), "--wait", moment]
    environment = os.environ | {"XDG_STATE_HOME": str(lab.state)}
    run = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    said_so(run, "waiting")
    return run


def said_so(run: subprocess.Popen[str], text: str) -> None:
    assert run.stderr is not None
    while text not in (line := run.stderr.readline()):
        assert line, f"it ended without saying {text}"


HEARING = ("env", "--default-signal=INT", "--default-signal=TERM")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_once_follows_what_is_at_work_and_starts_nothing_more(tmp_path: Path, number: int) -> None:
    lab = Controlled(tmp_path)
    with waiting(lab, "switch before n1", *HEARING) as run:
        run.send_signal(number)
        said_so(run, "stopping: ")
        (tmp_path / "go").touch()
        out, err = run.communicate()
    report = json.loads(out)
    assert (run.returncode, report["stopped"]["fix"]) == (130, "provision resume inventories/demo"), err
    assert ended(report) == {"n1": "committed", "n2": "not_started", "n3": "not_started"}
    assert lab.fleet.alive() == dict.fromkeys(NODES)
    assert "Traceback" not in err
    assert lab.run("resume").returncode == 0
    assert lab.stands() == UNDISTURBED


def test_where_all_was_at_work_already_there_is_nothing_to_resume(tmp_path: Path) -> None:
    lab = Controlled(tmp_path)
    with waiting(lab, "switch after n2", *HEARING) as run:
        run.send_signal(signal.SIGINT)
        said_so(run, "stopping: ")
        (tmp_path / "go").touch()
        out, _ = run.communicate()
    assert (run.returncode, set(ended(json.loads(out)).values())) == (0, {"committed"})


def test_twice_leaves_the_nodes_alone_lets_the_lab_go_and_says_how_to_resume(tmp_path: Path) -> None:
    lab = Controlled(tmp_path)
    with waiting(lab, "switch before n2", *HEARING) as run:
        run.send_signal(signal.SIGINT)
        said_so(run, "stopping: ")
        run.send_signal(signal.SIGINT)
        out, err = run.communicate()
    (problem,) = json.loads(out)["problems"]
    assert (run.returncode, problem["fix"]) == (130, "provision resume inventories/demo")
    assert "Traceback" not in err
    assert not list(lab.state.glob("provisioner/demo/runs/*/report.json"))
    assert lab.run("resume").returncode == 0
    assert lab.stands() == UNDISTURBED


def test_from_a_terminal(tmp_path: Path) -> None:
    """The kernel sends ^C to everything in the foreground, not to us alone."""
    lab = Controlled(tmp_path)
    pid, terminal = pty.fork()
    if not pid:
        os.environ["XDG_STATE_HOME"] = str(lab.state)
        argv = [*HEARING, sys.executable, "-m", "tests.cli.controller", "rollout", str(lab.nodes)]
        os.execvp("env", [*argv, "--wait", "stage before n1"])
    said = read_until(terminal, "waiting")
    os.write(terminal, b"\x03")
    said += read_until(terminal, "stopping: ")
    (tmp_path / "go").touch()
    said += read_until(terminal, "")
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130, said
    assert set(ended(lab.report()).values()) == {"not_started"}
    assert lab.fleet.alive() == dict.fromkeys(NODES)


def read_until(terminal: int, text: str) -> str:
    """To the end where `text` is empty."""
    said = ""
    while not text or text not in said:
        try:
            chunk = os.read(terminal, 4096)
        except OSError:  # EIO: nobody has it open any more
            return said
        said += chunk.decode(errors="replace")
    return said


def test_where_the_shell_has_it_ignored_it_stays_so(tmp_path: Path) -> None:
    lab = Controlled(tmp_path)
    with waiting(lab, "switch before n1", "env", "--ignore-signal=INT") as run:
        run.send_signal(signal.SIGINT)
        (tmp_path / "go").touch()
        out, _ = run.communicate()
    assert (run.returncode, set(ended(json.loads(out)).values())) == (0, {"committed"})


def test_before_anything_is_at_work_it_just_ends(tmp_path: Path) -> None:
    lab = Controlled(tmp_path)
    with waiting(lab, "probe before n2", *HEARING) as run:
        run.send_signal(signal.SIGTERM)
        out, err = run.communicate()
    (problem,) = json.loads(out)["problems"]
    assert (run.returncode, problem["code"]) == (130, "interrupted")
    assert "Traceback" not in err
    assert lab.run("rollout").returncode == 0
