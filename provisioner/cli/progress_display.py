"""News of a run while it goes on: a living view on a terminal, plain lines elsewhere; always on stderr."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from provisioner.cli.output import Voice
from provisioner.console.progress import LiveProgress, PlainProgress
from provisioner.domain.values.event import Event, OnEvent

_TICK = 1.0  # seconds between looks at whether it has been quiet for too long


@contextmanager
def watching(voice: Voice) -> Iterator[OnEvent]:
    """Where events go while the block runs. They may come from any thread."""
    with _live(voice) if voice.err.is_terminal else _plain(voice) as on_event:
        yield on_event


@contextmanager
def _live(voice: Voice) -> Iterator[OnEvent]:
    progress, guard = LiveProgress(time.monotonic), threading.Lock()

    def view() -> RenderableType:
        with guard:
            return progress.view(voice.err.height - 2)

    def on_event(event: Event) -> None:
        with guard:
            said = progress.news(event)
        if said:
            voice.err.print(Text(said))

    with Live(get_renderable=view, console=voice.err, transient=True):
        yield on_event


@contextmanager
def _plain(voice: Voice) -> Iterator[OnEvent]:
    progress, guard, ended = PlainProgress(time.monotonic), threading.Lock(), threading.Event()

    def on_event(event: Event) -> None:
        with guard:
            voice.note(*progress.lines(event))

    def tick() -> None:
        while not ended.wait(_TICK):
            with guard:
                voice.note(*progress.tick())

    ticker = threading.Thread(target=tick, name="progress", daemon=True)
    ticker.start()
    try:
        yield on_event
    finally:
        ended.set()
        ticker.join()
