"""Report the exception that ended a run: a message on stderr, a document with --json, and an exit code."""

import platform
import re
import secrets
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click

from provisioner.adapters.state.files import state_home, write_text
from provisioner.cli.exit_codes import BUG, ENDINGS, FAILED, INTERRUPTED
from provisioner.cli.output import make_console, print_json
from provisioner.cli.streams import OutputError
from provisioner.console.problems import problems
from provisioner.domain.values.problem import Problem, ProblemError

PROBLEMS_SCHEMA = "provisioner/problems/1"
_SECRET_OPTIONS = ("-e", "--extra-vars")
_URL_LOGIN = re.compile(r"(://)[^\s/@'\"]*+@")  # user and password of a URL
INTERRUPTION = Problem(
    "interrupted",
    "stopped before the end",
    "a node in the middle of a switch finishes or rolls back on its own; it never stays between the two",
    "run the same command again: it continues from the present state",
)


def report_error(error: BaseException, words: Sequence[str]) -> int:
    """Print why the run ended and return its exit code. `words`: the command line."""
    if isinstance(error, click.ClickException):
        error.show()
        return _print_document(words, [_usage_problem(error)], error.exit_code)
    if isinstance(error, ProblemError):
        found, code = list(error.problems), ENDINGS[error.ending]
    elif isinstance(error, KeyboardInterrupt | click.Abort | EOFError):
        found, code = [INTERRUPTION], INTERRUPTED
    elif isinstance(error, OutputError):
        found, code = [_unwritable(error)], FAILED
    else:
        found, code = [_bug_problem(error, words)], BUG
    make_console(sys.stderr, no_color="--no-color" in words).print(
        problems(("", problem) for problem in found), crop=False
    )
    return _print_document(words, found, code)


def _print_document(words: Sequence[str], found: Sequence[Problem], code: int) -> int:
    """Print the problems as the document of a failed run if --json is given; return `code`."""
    if "--json" in words:
        with suppress(OutputError):  # the problems are shown on stderr
            print_json({"schema": PROBLEMS_SCHEMA, "problems": [problem.model_dump() for problem in found]})
    return code


def _usage_problem(error: click.ClickException) -> Problem:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "provision"
    return Problem("usage", error.format_message(), "the command line is wrong", f"see {command} --help")


def _unwritable(error: OutputError) -> Problem:
    return Problem(
        "output_unwritable",
        f"the output cannot be written: {error.strerror}",
        "what the command printed is lost or cut short; what it did on nodes is on record",
        "free space where the output goes, and run `provision status LAB` if the command changes nodes",
    )


def _bug_problem(error: BaseException, words: Sequence[str]) -> Problem:
    return Problem(
        "bug",
        _without_logins(f"{type(error).__name__}: {error}"),
        "this is a bug of provision, not a fault of your lab",
        f"report it with the file {_write_trace(error, words)}",
    )


def _write_trace(error: BaseException, words: Sequence[str]) -> Path | str:
    """Write the traceback to a file that only its owner may read; return its path, or why it was not written."""
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}.txt"
    head = f"provision {version('lab-provisioner')}\nPython {sys.version}\n{platform.platform()}\n"
    trace = "".join(traceback.format_exception(error))
    try:
        path = state_home() / "traces" / name
        write_text(path, _without_logins(f"{head}{' '.join(_redact(words))}\n\n{trace}"), 0o600)
    except ProblemError as unwritable:
        return f"(which could not be written: {unwritable})"
    return path


def _without_logins(text: str) -> str:
    """Return the text without users and passwords of URLs: users are asked to send it to us."""
    return _URL_LOGIN.sub(r"\1***@", text)


def _redact(words: Sequence[str]) -> Iterator[str]:
    """Yield the command line without the values of --extra-vars, which may be secret."""
    before = ""
    for word in words:
        given = word.startswith(_SECRET_OPTIONS) and word not in _SECRET_OPTIONS
        yield "***" if before in _SECRET_OPTIONS else f"{word[:2]}***" if given else word
        before = word
