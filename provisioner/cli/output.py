"""Where words go: what was asked for to stdout, news to stderr; with --json stdout is one document and nothing else."""

import json
import os
import sys
from io import TextIOWrapper
from typing import IO, Any

import click
from pydantic import BaseModel
from rich.console import Console, RenderableType

from provisioner.domain.values.problem import Problem, ProblemError

WIDE = 500  # columns where nobody looks at a terminal: nothing is wrapped in a log or a pipe


class Output:
    def __init__(self, *, as_json: bool = False, no_color: bool = False, verbose: int = 0) -> None:
        self.as_json, self.verbose = as_json, verbose
        self.err = console(sys.stderr, no_color=no_color)
        self.out = console(sys.stdout, no_color=no_color)

    def say(self, *what: RenderableType) -> None:
        """What was asked for, in words; with --json the document says it."""
        for one in () if self.as_json else what:
            self.out.print(one, crop=False)

    def note(self, *what: RenderableType) -> None:
        """What a person should know beside it."""
        for one in what:
            self.err.print(one, crop=False)

    def document(self, schema: str, value: BaseModel | dict[str, Any]) -> None:
        """The one JSON document of a run with --json; nothing without."""
        if self.as_json:
            fields = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
            print_json({"schema": schema} | fields)

    def agreed(self, question: str) -> bool:
        """Ask a person. Raises ProblemError where nobody is there to answer."""
        if self.as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise ProblemError(_nobody_to_ask(question), "usage")
        return click.confirm(question, default=False, err=True)


def console(stream: IO[str], *, no_color: bool = False) -> Console:
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # a terminal that knows no Chinese is no reason to stop
    width = None if stream.isatty() or "COLUMNS" in os.environ else WIDE
    return Console(
        file=stream, width=width, no_color=no_color or None, markup=False, emoji=False, highlight=False, soft_wrap=False
    )


def print_json(document: dict[str, Any]) -> None:
    try:
        # Indented for eyes; for programs at once, which with hundreds of verdicts is a third of the time.
        sys.stdout.write(json.dumps(document, indent=2 if sys.stdout.isatty() else None) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        console(sys.stdout).on_broken_pipe()


def _nobody_to_ask(question: str) -> Problem:
    return Problem(
        "nobody_to_ask",
        f"{question} Nobody is at a terminal to answer.",
        "nothing is changed without consent",
        "look at `provision plan` first; give the answer with --yes",
    )
