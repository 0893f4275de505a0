"""Open a run: its journal, the lock of the lab, its progress display and its signal handling."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event as Flag

from provisioner.adapters.state.journal import RunJournal, open_run, reopen_run
from provisioner.adapters.state.run_lock import Holder, hold_run_lock
from provisioner.adapters.user import holder
from provisioner.cli.output import Output
from provisioner.cli.progress_display import show_progress
from provisioner.cli.signals import request_stop_on_signal, sigterm_as_interrupt
from provisioner.domain.rollout.run_spec import Verb
from provisioner.domain.values.claim import Claim, Scope
from provisioner.domain.values.event import Event, OnEvent
from provisioner.workflow.protocols import Probed, RunContext
from provisioner.workflow.rollout.claims import fence_above


class _Display:
    """Passes events to the progress display while one is open. Otherwise an event is only recorded."""

    def __init__(self) -> None:
        self.show: OnEvent | None = None

    def __call__(self, event: Event) -> None:
        if (show := self.show) is not None:
            show(event)


@dataclass(frozen=True)
class OpenRun(RunContext):
    """The context of a run and the terminal that it reports to."""

    output: Output
    _display: _Display
    _stop_requested: Flag

    @classmethod
    def of(cls, journal: RunJournal, output: Output) -> "OpenRun":
        """Connect a journal and a terminal."""
        display, stop_requested = _Display(), Flag()
        return cls(journal, journal.recording(display), stop_requested.is_set, output, display, stop_requested)

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Show events while the block runs. Nothing else may print meanwhile."""
        with show_progress(self.output) as show:
            self._display.show = show
            try:
                yield
            finally:
                self._display.show = None

    @contextmanager
    def changing_nodes(self) -> Iterator[None]:
        """Show events; the first signal requests a stop of the run, the second one raises KeyboardInterrupt."""
        with self.progress(), request_stop_on_signal(self._stop_requested, self.on_event):
            yield


@contextmanager
def open_run_context(lab: str, verb: Verb, breaks: str, output: Output) -> Iterator[OpenRun]:
    """Start a new run. Raises ProblemError (locked) where a run other than `breaks` is changing the lab."""
    journal = open_run(lab)
    with hold_lab(lab, journal.run, verb, breaks):
        yield OpenRun.of(journal, output)


@contextmanager
def reopen_run_context(lab: str, folder: Path, breaks: str, output: Output) -> Iterator[OpenRun]:
    """Continue the run in `folder`. Raises ProblemError (locked) where a run other than `breaks` changes the lab."""
    with hold_lab(lab, folder.name, "resume", breaks):
        yield OpenRun.of(reopen_run(folder), output)


@contextmanager
def hold_lab(lab: str, run: str, verb: str, breaks: str | None = None) -> Iterator[None]:
    """Hold the lock of the lab. Raises ProblemError (locked) where a run other than `breaks` holds it.

    `breaks` is None for a command that cannot take over.
    """
    since = datetime.now(UTC).isoformat(timespec="seconds")
    own = Holder(run=run, verb=verb, holder=holder(), since=since, pid=os.getpid())
    with sigterm_as_interrupt(), hold_run_lock(lab, own, breaks):
        yield


def build_claim(run: str, lab: str, verb: Verb, probed: Probed) -> Claim:
    """Build a claim with a fence number above every one that these nodes have seen.

    A removal claims whole nodes, every other run the seats that it changes.
    """
    since = datetime.now(UTC).isoformat(timespec="seconds")
    scope: Scope = "node" if verb == "remove" else "seats"
    return Claim(run=run, lab=lab, holder=holder(), since=since, fence=fence_above(probed), verb=verb, scope=scope)
