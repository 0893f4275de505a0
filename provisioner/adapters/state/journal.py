"""The journal of a run: its events, each synced to disk before the next action, its plan and its report."""

import os
import secrets
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from provisioner.adapters.state.files import make_private_folder, state_home, write_text
from provisioner.domain.rollout.pace import PULL_RATE, Pace, pace_of
from provisioner.domain.rollout.report import RolloutReport
from provisioner.domain.rollout.run_spec import RunSpec
from provisioner.domain.values.event import Event, OnEvent, RecordedEvent
from provisioner.domain.values.model import Document
from provisioner.domain.values.problem import Problem, ProblemError

_TIME = "%Y%m%dT%H%M%SZ"  # in the name of a run

_PACE_RUNS = 20  # the last runs tell how fast the next one will be

JournalDocument = TypeVar("JournalDocument", RunSpec, RolloutReport)


class RunJournal:
    """The folder of one run. Its name is the name of the run."""

    def __init__(self, folder: Path, seq: int = 0) -> None:
        """Open `folder` for appending events. `seq` is the number of events that it already holds."""
        self.folder = folder
        self.run = folder.name
        self._seq = seq
        self._lock = threading.Lock()
        self._events = os.open(folder / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def recording(self, show: OnEvent) -> OnEvent:
        """Return a callback that records an event and then passes it to `show`, so nothing unrecorded is shown."""

        def on_event(event: Event) -> None:
            self.record(event)
            show(event)

        return on_event

    def record(self, event: Event) -> None:
        """Append an event to the journal. Raises ProblemError where it cannot be written: the run must not go on."""
        with self._lock:
            self._seq += 1
            line = RecordedEvent(seq=self._seq, at=datetime.now(UTC), event=event).model_dump_json() + "\n"
            self._append(line.encode())

    def keep(self, name: Literal["plan", "undertaking", "lock-before", "report"], document: Document) -> Path:
        """Write a document of the run as JSON, readable by the owner alone, and return its path."""
        path = self.folder / f"{name}.json"
        write_text(path, document.model_dump_json(indent=2) + "\n", 0o600)
        return path

    def forget(self, name: Literal["undertaking"]) -> None:
        """Delete the document of a run that changed nothing."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    def end_partial_line(self) -> None:
        """Add a line break after a line that a power cut left incomplete, so that the next event is readable."""
        if (self.folder / "events.jsonl").read_bytes()[-1:] not in (b"", b"\n"):
            self._append(b"\n")

    def _append(self, line: bytes) -> None:
        try:
            while line:
                line = line[os.write(self._events, line) :]
            os.fsync(self._events)
        except OSError as error:
            raise ProblemError(_unwritable(self.folder, error.strerror or str(error))) from error


def open_run(lab: str) -> RunJournal:
    """Create a run of `lab` in `$XDG_STATE_HOME/provisioner/<lab>/runs/`, readable by its owner alone.

    Its name sorts after those of all earlier runs.
    Raises ProblemError where the folder cannot be created.
    """
    runs = _runs_folder(lab)
    try:
        make_private_folder(runs)
        folder = runs / f"{_next_time(runs):{_TIME}}-{secrets.token_hex(2)}"
        folder.mkdir(mode=0o700)
        return RunJournal(folder)
    except OSError as error:
        raise ProblemError(_unwritable(runs, error.strerror or str(error))) from error


def _next_time(runs: Path) -> datetime:
    """Return the present time, or the next second after the newest run: a clock that was set back changes no order."""
    newest = max((path.name.partition("-")[0] for path in runs.glob("[0-9]*T*Z-*")), default="")
    with suppress(ValueError, OverflowError):
        return max(datetime.now(UTC), datetime.strptime(newest, _TIME).replace(tzinfo=UTC) + timedelta(seconds=1))
    return datetime.now(UTC)


def reopen_run(folder: Path) -> RunJournal:
    """Open the journal of an earlier run to append to it. Raises ProblemError where it cannot be written."""
    try:
        journal = RunJournal(folder, len(events(folder)))
    except OSError as error:
        raise ProblemError(_unwritable(folder, error.strerror or str(error))) from error
    journal.end_partial_line()
    return journal


def events(folder: Path, holding: bytes = b"") -> list[RecordedEvent]:
    """Return the recorded events of a run, without a last line that a power cut left incomplete.

    `holding`: only those whose line has these bytes.
    """
    try:
        # Not splitlines: JSON leaves U+2028 and U+0085 within its texts, and they are line ends to it.
        lines = (folder / "events.jsonl").read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        if holding not in line:
            continue
        with suppress(ValidationError):
            found.append(RecordedEvent.model_validate_json(line))
    return found


def list_started_runs(lab: str) -> list[Path]:
    """Return the folders of the runs of `lab` that have started to change nodes, oldest first."""
    return sorted(path.parent for path in _runs_folder(lab).glob("*/undertaking.json"))


def read_pace(lab: str) -> Pace:
    """Return how fast the last runs of `lab` from this account have pulled and switched. Damaged files are left out."""
    folders = sorted(_runs_folder(lab).glob("[0-9]*T*Z-*"))[-_PACE_RUNS:]
    measured, reports = list[RecordedEvent](), list[RolloutReport]()
    for folder in folders:
        with suppress(OSError):
            measured += events(folder, PULL_RATE.encode())
        with suppress(ProblemError):
            reports += filter(None, [read_report(folder)])
    return pace_of(measured, reports)


def read_run_spec(folder: Path) -> RunSpec:
    """Return what a run was started with. Raises ProblemError where the file is missing or damaged."""
    return _read(folder / "undertaking.json", RunSpec)


def read_report(folder: Path) -> RolloutReport | None:
    """Return the report of a run, None where the run has not ended. Raises ProblemError where it is damaged."""
    path = folder / "report.json"
    return _read(path, RolloutReport) if path.exists() else None


def _read(path: Path, model: type[JournalDocument]) -> JournalDocument:
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ProblemError(
            Problem(
                "journal_damaged",
                f"{path}: {error}",
                "this file describes what the run was started to do",
                "check the nodes with `provision status`, then start a new run for the changes that are still missing",
            )
        ) from error


def _runs_folder(lab: str) -> Path:
    return state_home() / lab / "runs"


def _unwritable(folder: Path, reason: str) -> Problem:
    return Problem(
        "journal_unwritable",
        f"{folder}: {reason}",
        "a run without a journal could not be resumed or explained",
        "free disk space there, or set XDG_STATE_HOME to a directory that you can write to",
    )
