"""^C while a run changes nodes: once ends it after what is at work, twice leaves the nodes to themselves."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.problem import ProblemError
from provisioner.workflow.rollout.waves import StopRequested

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAID = "stopping: what is at work now is followed to its end; once more leaves the nodes to themselves"


@contextmanager
def terminable() -> Iterator[None]:
    """What asks a program to end is ^C to it, so that nothing of it is left behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def handle_interrupts(on_event: OnEvent) -> Iterator[StopRequested]:
    """Whether somebody has said stop. The second time raises KeyboardInterrupt, wherever the run is."""
    pulled = threading.Event()

    def heard(_number: int, _frame: FrameType | None) -> None:
        if pulled.is_set():
            raise KeyboardInterrupt
        pulled.set()
        # In a thread: whoever was interrupted may hold the locks that telling takes.
        threading.Thread(target=_tell, args=(on_event,), daemon=True).start()

    # What the shell of a background job has set to be ignored stays so.
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    try:
        for number in heeded:
            signal.signal(number, heard)
        yield pulled.is_set
    finally:
        for number in heeded:
            signal.signal(number, before[number])


def _tell(on_event: OnEvent) -> None:
    with suppress(ProblemError):  # the run meets the same trouble, and ends with it
        on_event(Event(phase="report", kind="note", text=_SAID))
