"""What a renderable looks like on a screen of a given width; blanks at the ends of lines do not count."""

from io import StringIO
from pathlib import Path
from textwrap import dedent

from rich.console import Console, RenderableType


def drawn(what: RenderableType, width: int = 100, *, color: bool = False) -> str:
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


def drawing(text: str) -> str:
    return dedent(text).strip("\n")


def golden(name: str) -> str:
    return (Path(__file__).parent / "golden" / f"{name}.txt").read_text(encoding="utf-8").strip("\n")
