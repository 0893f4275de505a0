"""Progress of a run on stderr: a live view on a terminal, plain lines elsewhere."""

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

_TICK = 1.0  # seconds between checks for a long silence


@contextmanager
def show_progress(output: Output) -> Iterator[OnEvent]:
    """Yield the function that shows events while the block runs. It may be called from any thread."""
    with _live(output) if output.err.is_terminal else _plain(output) as on_event:
        yield on_event


@contextmanager
def _live(output: Output) -> Iterator[OnEvent]:
    progress, lock = LiveProgress(time.monotonic), threading.Lock()

    def view() -> RenderableType:
        with lock:
            return progress.view(output.err.height - 2)

    def on_event(event: Event) -> None:
        with lock:
            text = progress.add(event)
        if text:
            output.err.print(Text(text))

    with Live(get_renderable=view, console=output.err, transient=True):
        yield on_event


@contextmanager
def _plain(output: Output) -> Iterator[OnEvent]:
    progress, lock, ended = PlainProgress(time.monotonic), threading.Lock(), threading.Event()

    def on_event(event: Event) -> None:
        with lock:
            output.note(*progress.add(event))

    def tick() -> None:
        while not ended.wait(_TICK):
            with lock:
                output.note(*progress.tick())

    ticker = threading.Thread(target=tick, name="progress", daemon=True)
    ticker.start()
    try:
        yield on_event
    finally:
        ended.set()
        ticker.join()
