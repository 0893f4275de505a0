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
from provisioner.cli.errors import end
from provisioner.domain.values.problem import Ending, Problem, ProblemError
from tests.cli.running import document, run, spawn

SEEN = Problem("some_code", "seen", "because", "do this")


@pytest.mark.parametrize(("ending", "code"), [("failed", 1), ("usage", 2), ("locked", 5), ("stale", 6)])
def test_how_a_run_ends_is_its_exit_code(ending: Ending, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert end(ProblemError([SEEN, SEEN.model_copy(update={"code": "other"})], ending), []) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("╷ some_code\n│ seen\n│ why: because\n│ fix: do this\n╵\n╷ other\n")


def test_a_program_is_told_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    end(ProblemError(SEEN, "locked"), ["plan", "--json"])
    read = json.loads(capsys.readouterr().out)
    assert read == {"schema": "provisioner/problems/1", "problems": [SEEN.model_dump()]}


@pytest.mark.parametrize("words", [["plan", "nowhere", "--json"], ["plan", "--json"], ["plam", "--json"]])
def test_stdout_is_one_document_whatever_is_wrong(words: list[str]) -> None:
    ran = run(*words)
    assert ran.exit_code == 2
    assert document(ran)["problems"]
    assert ran.stderr


def test_a_bug_is_ours_and_leaves_a_trace(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "lab", "-e", "password=hunter2", "-epassword=hunter2", "--extra-vars=p=hunter2", "--limit", "n1"]
    error = KeyError("x\x1b[2J")
    error.__cause__ = ValueError("deeper")
    assert end(error, words) == 70
    said = capsys.readouterr().err
    (trace,) = (state_home() / "traces").iterdir()
    assert str(trace) in said
    assert "Traceback" not in said
    assert "\x1b[2J" not in said
    text = trace.read_text()
    assert "ValueError: deeper" in text
    assert "plan lab -e *** -e*** --*** --limit n1" in text
    assert "hunter2" not in text
    assert stat.S_IMODE(trace.stat().st_mode) == 0o600


def test_a_bug_on_a_full_disk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/none")
    assert end(RuntimeError("x"), []) == 70
    assert "could not be written" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort(), EOFError()])
def test_interrupted(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    assert end(error, []) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_control_c(tmp_path: Path) -> None:
    nodes, tags = tmp_path / "nodes.json", tmp_path / "tags.json"
    nodes.write_text('{"nodes": []}')
    os.mkfifo(tags)
    ran = spawn("select", "--nodes", str(nodes), "--tags", str(tags))
    writer = opened(tags)
    asleep(ran.pid)
    ran.send_signal(signal.SIGINT)
    _, said = ran.communicate(timeout=30)
    os.close(writer)
    assert ran.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said


def opened(pipe: Path) -> int:
    """Once somebody reads from it."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            time.sleep(0.05)
    raise TimeoutError(pipe)


def asleep(pid: int) -> None:
    """Once it waits for what it reads: a signal that comes just before would be seen only after it."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S":
            return
        time.sleep(0.05)
    raise TimeoutError(pid)
