"""Output: results to stdout, notes and progress to stderr. With --json, stdout is one JSON document."""

import json
import os
import sys
from io import TextIOWrapper
from typing import IO, Any

import click
from pydantic import BaseModel
from rich.console import Console, RenderableType

from provisioner.domain.values.problem import Problem, ProblemError

WIDE = 500  # columns in a log or a pipe, so that nothing is wrapped


class Output:
    """Prints the results and notes of one run, and asks for confirmation. `verbose`: how often -v was given."""

    def __init__(self, *, as_json: bool = False, no_color: bool = False, verbose: int = 0) -> None:
        """Open a console for stdout and one for stderr."""
        self.as_json, self.verbose = as_json, verbose
        self.err = make_console(sys.stderr, no_color=no_color)
        self.out = make_console(sys.stdout, no_color=no_color)

    def show(self, *parts: RenderableType) -> None:
        """Print the result on stdout; nothing with --json."""
        for part in () if self.as_json else parts:
            self.out.print(part, crop=False)

    def note(self, *parts: RenderableType) -> None:
        """Print a note on stderr."""
        for part in parts:
            self.err.print(part, crop=False)

    def document(self, schema: str, value: BaseModel | dict[str, Any]) -> None:
        """Print the JSON document of the run; nothing without --json."""
        if self.as_json:
            fields = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
            print_json({"schema": schema} | fields)

    @property
    def can_ask(self) -> bool:
        """Whether there is a terminal to ask on, and its answer is wanted: with --json a program reads the output."""
        return not self.as_json and sys.stdin.isatty() and sys.stderr.isatty()

    def confirm(self, question: str) -> bool:
        """Ask a yes/no question on stderr. Raises ProblemError with --json or without a terminal."""
        problem = Problem(
            "nobody_to_ask",
            f"{question} There is no terminal to answer on.",
            "nothing is changed without confirmation",
            "read `provision plan` first; confirm with --yes",
        )
        self.require_terminal(problem)
        return click.confirm(question, default=False, err=True)

    def require_terminal(self, problem: Problem) -> None:
        """Raise `problem` (usage) with --json or without a terminal."""
        if not self.can_ask:
            raise ProblemError(problem, "usage")


def make_console(stream: IO[str], *, no_color: bool = False) -> Console:
    """Return a console without markup: as wide as the terminal, or WIDE in a pipe unless COLUMNS is set."""
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # a terminal without Chinese must not end the run
    width = None if stream.isatty() or "COLUMNS" in os.environ else WIDE
    return Console(
        file=stream, width=width, no_color=no_color or None, markup=False, emoji=False, highlight=False, soft_wrap=False
    )


def print_json(document: dict[str, Any]) -> None:
    """Print a document on stdout. A closed pipe ends the run without a traceback."""
    try:
        # Indented on a terminal only: on one line, hundreds of verdicts take a third of the time.
        sys.stdout.write(json.dumps(document, indent=2 if sys.stdout.isatty() else None) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        make_console(sys.stdout).on_broken_pipe()
