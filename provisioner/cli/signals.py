"""Signals while a run changes nodes: the first SIGINT or SIGTERM ends it after the running jobs, a second at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.problem import ProblemError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STOPPING = "stopping: running jobs are followed to their end; a second signal stops waiting for them"


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Handle SIGTERM as SIGINT, so that a terminated program cleans up."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def request_stop_on_signal(requested: threading.Event, on_event: OnEvent) -> Iterator[None]:
    """Set `requested` at the first signal, and raise KeyboardInterrupt at the second, wherever the run is."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()
        # In a thread: the interrupted code may hold the locks that on_event takes.
        threading.Thread(target=_announce, args=(on_event,), daemon=True).start()

    # A signal that the shell of a background job ignores stays ignored.
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handled = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    try:
        for number in handled:
            signal.signal(number, handle)
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


def _announce(on_event: OnEvent) -> None:
    with suppress(ProblemError):  # the run meets the same fault at its next event, and ends with it
        on_event(Event(phase="report", kind="note", text=_STOPPING))
