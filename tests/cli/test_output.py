"""Output to stdout and stderr: colours, terminals, encodings, and questions without a terminal."""

import io
import os
import pty
import subprocess
import sys
import threading

import pytest

from provisioner.cli.output import Output, make_console
from provisioner.cli.progress_display import show_progress
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import ProblemError

WORDS = ("init", "/dev/null")  # of the commands with a problem to report, one that imports little


def run_on_terminal(*words: str, **environment: str) -> str:
    """Return the output of a command whose stdout and stderr are a terminal."""
    controller, terminal = pty.openpty()
    argv = [sys.executable, "-m", "provisioner", *words]
    given = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "COLUMNS"}}
    ran = subprocess.Popen(
        argv, stdin=terminal, stdout=terminal, stderr=terminal, env=given | {"TERM": "xterm"} | environment
    )
    os.close(terminal)
    output = b""
    while chunk := _read(controller):
        output += chunk
    ran.wait(timeout=30)
    os.close(controller)
    return output.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end was closed
        return b""


@pytest.mark.parametrize(
    ("words", "environment", "coloured"),
    [
        (WORDS, {}, True),
        (WORDS, {"NO_COLOR": "1"}, False),
        ((*WORDS, "--no-color"), {}, False),
        (WORDS, {"TERM": "dumb"}, False),
    ],
)
def test_colours_only_on_a_terminal_that_allows_them(
    words: tuple[str, ...], environment: dict[str, str], coloured: bool
) -> None:
    captured = run_on_terminal(*words, **environment)
    assert "unwritable" in captured
    assert ("\x1b[31m" in captured or "\x1b[1;31m" in captured) is coloured


def test_lines_in_a_pipe_are_not_wrapped() -> None:
    file = io.StringIO()
    make_console(file).print("word " * 60)
    assert file.getvalue().count("\n") == 1


def test_characters_that_a_terminal_cannot_show_are_escaped() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    make_console(file).print("实验室 ╷")
    file.flush()
    assert file.buffer.getvalue() == b"\\u5b9e\\u9a8c\\u5ba4 \\u2577\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_question_without_a_terminal_is_a_usage_error(as_json: bool) -> None:
    with pytest.raises(ProblemError) as refusal:
        Output(as_json=as_json).confirm("Roll this out to 3 nodes?")
    (problem,) = refusal.value.problems
    assert refusal.value.ending == "usage"
    assert "--yes" in problem.fix


def test_with_json_stdout_is_the_document_alone(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=True)
    output.show("a table")
    output.note("a note")
    output.document("provisioner/x/1", {"a": "\ud83d\x1b"})
    captured = capsys.readouterr()
    assert captured.out == '{"schema": "provisioner/x/1", "a": "\\ud83d\\u001b"}\n'
    assert captured.err == "a note\n"


def test_without_json_there_is_no_document(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.document("provisioner/x/1", {})
    output.show("a table")
    assert capsys.readouterr().out == "a table\n"


def test_events_from_many_threads_are_whole_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress(Output()) as on_event:
        events = [Event(phase="stage", kind="done", node=f"n{number}") for number in range(20)]
        threads = [threading.Thread(target=on_event, args=(event,)) for event in events]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    captured = capsys.readouterr()
    assert sorted(captured.err.splitlines()) == sorted(f"n{number}: stage done" for number in range(20))
    assert captured.out == ""


def test_a_closed_pipe_is_no_bug() -> None:
    """As in `provision facts show | head -1`."""
    for words in (("facts", "show"), ("facts", "show", "--json")):
        argv = [sys.executable, "-m", "provisioner", *words]
        ran = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert ran.stdout is not None
        assert ran.stderr is not None
        ran.stdout.close()
        assert ran.stderr.read() == b""
        ran.stderr.close()
        assert ran.wait(timeout=30) in {0, 1}
