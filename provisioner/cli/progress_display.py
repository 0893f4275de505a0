"""News of a run while it goes on: a living view on a terminal, plain lines elsewhere; always on stderr."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from provisioner.cli.output import Output
from provisioner.console.progress import LiveProgress, PlainProgress
from provisioner.domain.values.event import Event, OnEvent

_TICK = 1.0  # seconds between looks at whether it has been quiet for too long


@contextmanager
def show_progress(output: Output) -> Iterator[OnEvent]:
    """Where events go while the block runs. They may come from any thread."""
    with _live(output) if output.err.is_terminal else _plain(output) as on_event:
        yield on_event


@contextmanager
def _live(output: Output) -> Iterator[OnEvent]:
    progress, guard = LiveProgress(time.monotonic), threading.Lock()

    def view() -> RenderableType:
        with guard:
            return progress.view(output.err.height - 2)

    def on_event(event: Event) -> None:
        with guard:
            said = progress.news(event)
        if said:
            output.err.print(Text(said))

    with Live(get_renderable=view, console=output.err, transient=True):
        yield on_event


@contextmanager
def _plain(output: Output) -> Iterator[OnEvent]:
    progress, guard, ended = PlainProgress(time.monotonic), threading.Lock(), threading.Event()

    def on_event(event: Event) -> None:
        with guard:
            output.note(*progress.lines(event))

    def tick() -> None:
        while not ended.wait(_TICK):
            with guard:
                output.note(*progress.tick())

    ticker = threading.Thread(target=tick, name="progress", daemon=True)
    ticker.start()
    try:
        yield on_event
    finally:
        ended.set()
        ticker.join()
