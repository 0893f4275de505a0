"""The journal of a seat: one line of JSON for each step, written to disk before the step begins.

The file ends in spaces (JSON allows them): room that is taken before a switch begins, so that a disk that fills up in
the middle of it cannot prevent the lines that are still to come. The next line is written over the spaces.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.module_utils.provisioner.base.files import read_record, sync_folder, write_all, write_atomic
from ansible.module_utils.provisioner.base.host import boot_id, now
from ansible.module_utils.provisioner.base.problem import ProblemError, io_problem

# After one of these, until the next line, a seat is between its old and its new generation.
OPEN_STATES = ("switching", "verifying", "rolling_back")
# Lines that neither begin nor end a transaction.
NOTES = ("staged", "forced")
KEYS = {"seq", "at", "run", "state", "detail"}  # of every line
LONGEST = 1 << 20  # bytes; a journal that is longer can be shortened
KEPT_LINES = 500  # about 150 kB
ROOM = 1 << 14  # bytes taken before a switch; its further lines, with three attempts to undo it, need about 3 kB


class Journal:
    """The journal of a seat, for reading and for the lines of one run."""

    def __init__(self, folder: Path, run: str) -> None:
        """`folder` is that of the seat; `run` is written into every new line."""
        self._path = folder / "journal.jsonl"
        self._run = run

    def append(self, state: str, **detail: Any) -> None:
        """Append a line. Raises ProblemError `io_error` when it is not on disk; then the step must not begin."""
        try:
            self._write(state, detail)
        except OSError as error:
            raise io_problem(error) from None

    def _write(self, state: str, detail: dict[str, Any]) -> None:
        line = {"seq": _next_number(self.lines()), "at": now(), "boot_id": boot_id(), "run": self._run, "state": state}
        data = json.dumps({**line, "detail": detail}).encode()
        new = not self._path.exists()
        descriptor = os.open(str(self._path), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            end, size = _end(descriptor), os.fstat(descriptor).st_size
            if state == "switching":
                _extend(descriptor, size, end + len(data) + ROOM)
            os.lseek(descriptor, end, os.SEEK_SET)
            # The newline comes first, so that a line that a power cut left incomplete does not damage this one.
            write_all(descriptor, (b"\n" if end else b"") + data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if new:
            sync_folder(self._path.parent)

    def shorten(self) -> None:
        """Keep the latest KEPT_LINES, and the last commit, of a journal that is longer than LONGEST.

        One with an open switch stays as it is. Raises ProblemError `io_error`.
        """
        try:
            if self._path.stat().st_size <= LONGEST or self.open_switch():
                return
            lines = self.lines()
            commits = [line for line in lines[:-KEPT_LINES] if line["state"] == "committed"]
            kept = [*commits[-1:], *lines[-KEPT_LINES:]]
            write_atomic(self._path, "".join(f"{json.dumps(line)}\n" for line in kept))
        except OSError as error:
            raise io_problem(error) from None

    def lines(self) -> list[dict[str, Any]]:
        """Return all complete lines, oldest first.

        Raises ProblemError `io_error` when the journal cannot be read, and `journal_damaged`: whether a switch is open
        is unknown then.
        """
        return [line for line in map(_parsed, read_record(self._path).splitlines()) if line]

    def last_step(self) -> dict[str, Any] | None:
        """Return the last line that belongs to a transaction."""
        return next((line for line in reversed(self.lines()) if line["state"] not in NOTES), None)

    def target(self, run: str) -> int:
        """Return the generation of the last switch that this run began, 0 when it began none."""
        steps = [line for line in self.lines() if line["run"] == run and line["state"] == "switching"]
        return int(steps[-1]["detail"]["to"]) if steps else 0

    def host_key(self) -> str:
        """Return the host key of the last commit; empty when an older release did not record it."""
        keys = [line["detail"].get("host_key") for line in self.lines() if line["state"] == "committed"]
        return next((str(key) for key in reversed(keys) if key), "")

    def rollback_attempts(self) -> int:
        """Return how often an undo of the last switch began."""
        states = [line["state"] for line in self.lines()]
        return states[::-1][: states[::-1].index("switching")].count("rolling_back") if "switching" in states else 0

    def open_switch(self) -> dict[str, Any] | None:
        """Return the line `switching` of an unfinished transaction, None when there is none."""
        last = self.last_step()
        if last is None or last["state"] not in OPEN_STATES:
            return None
        return next((line for line in reversed(self.lines()) if line["state"] == "switching"), None)


def _next_number(lines: list[dict[str, Any]]) -> int:
    last = lines[-1]["seq"] if lines else 0
    return last + 1 if type(last) is int else len(lines) + 1


def _end(descriptor: int) -> int:
    """Return the offset behind the last line."""
    with open(descriptor, "rb", closefd=False) as file:
        return len(file.read().rstrip(b" \n"))


def _extend(descriptor: int, size: int, wanted: int) -> None:
    os.lseek(descriptor, size, os.SEEK_SET)
    write_all(descriptor, b" " * (wanted - size))
    os.fsync(descriptor)


def _parsed(text: str) -> dict[str, Any] | None:
    """Return the line, None for one that is incomplete: its step did not begin."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    if not (isinstance(line, dict) and line.keys() >= KEYS):
        return None
    if not _is_well_formed(line):
        raise _damaged(text)
    return line


def _is_well_formed(line: dict[str, Any]) -> bool:
    detail = line["detail"]
    if not (isinstance(line["state"], str) and isinstance(line["run"], str) and isinstance(detail, dict)):
        return False
    return line["state"] != "switching" or all(type(detail.get(name)) is int for name in ("to", "back"))


def _damaged(text: str) -> ProblemError:
    return ProblemError(
        "journal_damaged",
        f"a line of the journal is complete, but no release writes such a line: {text[:200]!r}",
        "so it is not known which generation of the seat is right",
        "look at journal.jsonl of the seat; remove the line if the seat is in order",
    )
