"""The record of a run: every event on the disk before the next act, and beside it what was planned and how it ended."""

import os
import secrets
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from provisioner.adapters.state.files import state_home, write_text
from provisioner.domain.rollout.report import RolloutReport
from provisioner.domain.rollout.run_spec import RunSpec
from provisioner.domain.values.event import Event, OnEvent, Recorded
from provisioner.domain.values.model import Document
from provisioner.domain.values.problem import Problem, ProblemError

Kept = TypeVar("Kept", RunSpec, RolloutReport)


class RunJournal:
    """One run, in a folder of its own that is named as the run."""

    def __init__(self, folder: Path, seq: int = 0) -> None:
        self.folder = folder
        self.run = folder.name
        self._seq = seq
        self._lock = threading.Lock()
        self._events = os.open(folder / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def telling(self, show: OnEvent) -> OnEvent:
        """Writes an event down, then shows it: what was shown and what is recorded are one list."""

        def on_event(event: Event) -> None:
            self.record(event)
            show(event)

        return on_event

    def record(self, event: Event) -> None:
        """Raises ProblemError where it cannot be written: no record, no act."""
        with self._lock:
            self._seq += 1
            line = Recorded(seq=self._seq, at=datetime.now(UTC), event=event).model_dump_json() + "\n"
            self._append(line.encode())

    def keep(self, name: Literal["plan", "undertaking", "lock-before", "report"], document: Document) -> Path:
        path = self.folder / f"{name}.json"
        write_text(path, document.model_dump_json(indent=2) + "\n", 0o600)
        return path

    def forget(self, name: Literal["undertaking"]) -> None:
        """What was never begun."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    def end_line(self) -> None:
        """After a line that a power cut left half written, the next one is whole again."""
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
    """A new run of `lab` below `$XDG_STATE_HOME/provisioner/<lab>/runs/`, readable by its owner alone."""
    folder = runs(lab) / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
    try:
        runs(lab).mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        return RunJournal(folder)
    except OSError as error:
        raise ProblemError(_unwritable(folder, error.strerror or str(error))) from error


def reopen_run(folder: Path) -> RunJournal:
    """To go on with what is written there. Raises ProblemError where nothing can be added to it."""
    try:
        journal = RunJournal(folder, len(events(folder)))
    except OSError as error:
        raise ProblemError(_unwritable(folder, error.strerror or str(error))) from error
    journal.end_line()
    return journal


def events(folder: Path) -> list[Recorded]:
    """What was recorded before; a last line that a power cut left half written is none."""
    try:
        lines = (folder / "events.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        with suppress(ValidationError):
            found.append(Recorded.model_validate_json(line))
    return found


def run_spec_names(lab: str) -> list[Path]:
    """Folders of the runs of `lab` that had begun to change something, oldest first."""
    return sorted(path.parent for path in runs(lab).glob("*/undertaking.json"))


def read_run_spec(folder: Path) -> RunSpec:
    """Raises ProblemError where it is damaged."""
    return _read(folder / "undertaking.json", RunSpec)


def read_report(folder: Path) -> RolloutReport | None:
    path = folder / "report.json"
    return _read(path, RolloutReport) if path.exists() else None


def _read(path: Path, model: type[Kept]) -> Kept:
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ProblemError(_damaged(path, str(error))) from error


def runs(lab: str) -> Path:
    return state_home() / lab / "runs"


def _damaged(path: Path, reason: str) -> Problem:
    return Problem(
        "journal_damaged",
        f"{path}: {reason}",
        "it says what the run had set out to do",
        "look at `provision status`, and run again what is still wanted",
    )


def _unwritable(folder: Path, reason: str) -> Problem:
    return Problem(
        "journal_unwritable",
        f"{folder}: {reason}",
        "a run that leaves no record could neither be finished nor explained",
        "make room there, or set XDG_STATE_HOME to a directory that can be written",
    )
