"""How a run that could not go on ends: words for a person, a document for a program, an exit code for both."""

import platform
import secrets
import sys
import traceback
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click

from provisioner.adapters.state.files import state_home, write_text
from provisioner.cli.exit_codes import BUG, ENDINGS, INTERRUPTED
from provisioner.cli.output import console, print_json
from provisioner.console.problems import problems
from provisioner.domain.values.problem import Problem, ProblemError

PROBLEMS_SCHEMA = "provisioner/problems/1"
_SECRETIVE = ("-e", "--extra-vars")


def end(error: BaseException, words: Sequence[str]) -> int:
    """The exit code, once people and programs know why."""
    if isinstance(error, click.ClickException):
        error.show()
        return _close(words, [_usage(error)], error.exit_code)
    if isinstance(error, ProblemError):
        found, code = list(error.problems), ENDINGS[error.ending]
    elif isinstance(error, KeyboardInterrupt | click.Abort | EOFError):
        found, code = [_interrupted()], INTERRUPTED
    else:
        found, code = [_bug(error, words)], BUG
    console(sys.stderr, no_color="--no-color" in words).print(problems(("", problem) for problem in found), crop=False)
    return _close(words, found, code)


def _close(words: Sequence[str], found: Sequence[Problem], code: int) -> int:
    """With --json, stdout is one document also where nothing came of the run."""
    if "--json" in words:
        print_json({"schema": PROBLEMS_SCHEMA, "problems": [problem.model_dump() for problem in found]})
    return code


def _usage(error: click.ClickException) -> Problem:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "provision"
    return Problem("usage", error.format_message(), "the command was not understood", f"{command} --help")


def _interrupted() -> Problem:
    return Problem(
        "interrupted",
        "stopped before the end",
        "a node in the middle of a switch ends on the old or the new by itself, never between",
        "run the same command again: it goes on where things stand",
    )


def _bug(error: BaseException, words: Sequence[str]) -> Problem:
    return Problem(
        "bug",
        f"{type(error).__name__}: {error}",
        "this should not have happened; it is a fault of provision, not of your lab",
        f"report it with the file {_trace(error, words)}",
    )


def _trace(error: BaseException, words: Sequence[str]) -> Path | str:
    """Where the trace was written, for its owner alone."""
    path = state_home() / "traces" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}.txt"
    head = f"provision {version('lab-provisioner')}\nPython {sys.version}\n{platform.platform()}\n"
    try:
        write_text(path, f"{head}{' '.join(_public(words))}\n\n{''.join(traceback.format_exception(error))}", 0o600)
    except ProblemError as unwritable:
        return f"that could not be written ({unwritable})"
    return path


def _public(words: Sequence[str]) -> Iterator[str]:
    """The command line without the values of variables, which may be secret."""
    before = ""
    for word in words:
        given = word.startswith(_SECRETIVE) and word not in _SECRETIVE
        yield "***" if before in _SECRETIVE else f"{word[:2]}***" if given else word
        before = word
