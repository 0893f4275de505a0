"""How errors end a run: exit code, message, document and trace."""

import errno
import json
import os
import signal
import stat
import time
from pathlib import Path

import click
import pytest

from provisioner.adapters.state.files import state_home
from provisioner.cli.errors import report_error
from provisioner.domain.values.problem import Ending, Problem, ProblemError
from tests.cli.running import document, run, spawn

SEEN = Problem("some_code", "seen", "because", "do this")


@pytest.mark.parametrize(("ending", "code"), [("failed", 1), ("usage", 2), ("locked", 5), ("stale", 6)])
def test_exit_code_of_each_ending(ending: Ending, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_error(ProblemError([SEEN, SEEN.model_copy(update={"code": "other"})], ending), []) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("╷ some_code\n│ seen\n│ why: because\n│ fix: do this\n╵\n╷ other\n")


def test_with_json_the_problems_are_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    report_error(ProblemError(SEEN, "locked"), ["plan", "--json"])
    read = json.loads(capsys.readouterr().out)
    assert read == {"schema": "provisioner/problems/1", "problems": [SEEN.model_dump()]}


@pytest.mark.parametrize("words", [["plan", "nowhere", "--json"], ["plan", "--json"], ["plam", "--json"]])
def test_with_json_a_usage_error_is_a_document(words: list[str]) -> None:
    ran = run(*words)
    assert ran.exit_code == 2
    assert document(ran)["problems"]
    assert ran.stderr


def test_a_bug_is_exit_70_with_a_trace_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "lab", "-e", "password=hunter2", "-epassword=hunter2", "--extra-vars=p=hunter2", "--limit", "n1"]
    error = KeyError("x\x1b[2J")
    error.__cause__ = ValueError("deeper")
    assert report_error(error, words) == 70
    captured = capsys.readouterr().err
    (trace,) = (state_home() / "traces").iterdir()
    assert str(trace) in captured
    assert "Traceback" not in captured
    assert "\x1b[2J" not in captured
    text = trace.read_text()
    assert "ValueError: deeper" in text
    assert "plan lab -e *** -e*** --*** --limit n1" in text
    assert "hunter2" not in text
    assert stat.S_IMODE(trace.stat().st_mode) == 0o600


def test_a_trace_holds_no_password_of_a_url(capsys: pytest.CaptureFixture[str]) -> None:
    url = "https://ann:hunter2@web.lab/lab.lock"
    error = ValueError(f"bad: {url}")
    error.__cause__ = KeyError(f"ProxyManager('http://ann:hunter2@proxy:3128') {url}")
    report_error(error, ["me", "--lock", url, f"--lock={url}"])
    (trace,) = (state_home() / "traces").iterdir()
    assert "hunter2" not in capsys.readouterr().err + trace.read_text()
    assert "me --lock https://***@web.lab/lab.lock --lock=https://***@web.lab/lab.lock" in trace.read_text()


def test_a_bug_whose_trace_cannot_be_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/none")
    assert report_error(RuntimeError("x"), []) == 70
    assert "could not be written: " in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort(), EOFError()])
def test_an_interruption_is_exit_130(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_error(error, []) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_control_c_ends_a_running_command(tmp_path: Path) -> None:
    nodes, tags = tmp_path / "nodes.json", tmp_path / "tags.json"
    nodes.write_text('{"nodes": []}')
    os.mkfifo(tags)
    ran = spawn("select", "--nodes", str(nodes), "--tags", str(tags))
    writer = open_for_writing(tags)
    wait_until_asleep(ran.pid)
    ran.send_signal(signal.SIGINT)
    _, captured = ran.communicate(timeout=30)
    os.close(writer)
    assert ran.returncode == 130
    assert "interrupted" in captured
    assert "Traceback" not in captured


def open_for_writing(pipe: Path) -> int:
    """Wait until a process reads from the pipe; return the descriptor."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            time.sleep(0.05)
    raise TimeoutError(pipe)


def wait_until_asleep(pid: int) -> None:
    """Wait until the process sleeps in its read: a signal just before it would be handled only after it."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S":
            return
        time.sleep(0.05)
    raise TimeoutError(pid)
