"""What goes where: colours, terminals, other encodings, and questions that nobody is there to answer."""

import io
import os
import pty
import subprocess
import sys
import threading

import pytest

from provisioner.cli.output import Output, console
from provisioner.cli.progress_display import show_progress
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import ProblemError

WORDS = ("plan", "nowhere")


def on_a_terminal(*words: str, **environment: str) -> str:
    """stderr of a command whose stdout and stderr are a terminal."""
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "provisioner", *words]
    given = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "COLUMNS"}}
    ran = subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, env=given | {"TERM": "xterm"} | environment
    )
    os.close(theirs)
    said = b""
    while chunk := _read(ours):
        said += chunk
    ran.wait(timeout=30)
    os.close(ours)
    return said.decode()


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
def test_colours_only_where_they_are_wanted(
    words: tuple[str, ...], environment: dict[str, str], coloured: bool
) -> None:
    said = on_a_terminal(*words, **environment)
    assert "no_such_lab" in said
    assert ("\x1b[31m" in said or "\x1b[1;31m" in said) is coloured


def test_a_pipe_is_as_wide_as_it_needs_to_be() -> None:
    file = io.StringIO()
    console(file).print("word " * 60)
    assert file.getvalue().count("\n") == 1


def test_a_terminal_that_knows_little() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console(file).print("实验室 ╷")
    file.flush()
    assert file.buffer.getvalue() == b"\\u5b9e\\u9a8c\\u5ba4 \\u2577\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_nobody_to_ask(as_json: bool) -> None:
    with pytest.raises(ProblemError) as refusal:
        Output(as_json=as_json).agreed("Roll this out to 3 nodes?")
    (problem,) = refusal.value.problems
    assert refusal.value.ending == "usage"
    assert "--yes" in problem.fix


def test_with_json_only_the_document_is_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=True)
    output.say("a table")
    output.note("a note")
    output.document("provisioner/x/1", {"a": "\ud83d\x1b"})
    said = capsys.readouterr()
    assert said.out == '{"schema": "provisioner/x/1", "a": "\\ud83d\\u001b"}\n'
    assert said.err == "a note\n"


def test_without_json_there_is_no_document(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.document("provisioner/x/1", {})
    output.say("a table")
    assert capsys.readouterr().out == "a table\n"


def test_news_of_many_threads_are_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress(Output()) as on_event:
        events = [Event(phase="stage", kind="done", node=f"n{number}") for number in range(20)]
        threads = [threading.Thread(target=on_event, args=(event,)) for event in events]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    said = capsys.readouterr()
    assert sorted(said.err.splitlines()) == sorted(f"n{number}: stage done" for number in range(20))
    assert said.out == ""


def test_a_reader_who_leaves_is_no_bug() -> None:
    """`provision facts | head -1`"""
    for words in (("facts",), ("facts", "--json")):
        argv = [sys.executable, "-m", "provisioner", *words]
        ran = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert ran.stdout is not None
        assert ran.stderr is not None
        ran.stdout.close()
        assert ran.stderr.read() == b""
        ran.stderr.close()
        assert ran.wait(timeout=30) in {0, 1}
