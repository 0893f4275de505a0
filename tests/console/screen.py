"""Render to text as on a screen of a given width; blanks at the ends of lines are dropped."""

from io import StringIO
from pathlib import Path
from textwrap import dedent

from rich.console import Console, RenderableType


def render_text(what: RenderableType, width: int = 100, *, color: bool = False) -> str:
    file = StringIO()
    console = Console(
        file=file,
        width=width,
        markup=False,
        highlight=False,
        emoji=False,
        force_terminal=color,
        color_system="standard" if color else None,
        legacy_windows=False,
    )
    console.print(what)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()).strip("\n")


def expected_text(text: str) -> str:
    return dedent(text).strip("\n")


def golden_text(name: str) -> str:
    return (Path(__file__).parent / "golden" / f"{name}.txt").read_text(encoding="utf-8").strip("\n")
