"""STATE_ROOT/self_service/usage/YYYY-MM.json: how long each person has held and used each GPU, a row for each day.

Nothing depends on it: where it cannot be written, the rows are kept in memory, and tried again later.
"""

from __future__ import annotations

import contextlib
import json
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Mapping

from ansible.module_utils.provisioner.base.files import write_atomic
from ansible.module_utils.provisioner.lease.state import LeaseState
from ansible.module_utils.provisioner.lease.usage import Key, Row, by_day, count, count_use, total

SCHEMA = "provisioner/usage/1"
WRITE_EVERY_S = 300.0
MONTH = len("2027-01")
FILE = re.compile(r"[0-9]{4}-[0-9]{2}\.json")


def read_wall_clock() -> datetime:
    """Return the time of the wall clock in UTC, which is for people only."""
    return datetime.now(timezone.utc)


class UsageFile:
    """The rows of the current months in memory, and those of all months on disk. No method raises an exception."""

    def __init__(self, folder: Path, wall_clock: Callable[[], datetime] = read_wall_clock) -> None:
        """Read nothing yet. `folder`: that of the files, which is made when it is needed."""
        self._folder, self._wall_clock = folder, wall_clock
        self._rows: dict[Key, Row] = {}
        self._months: set[str] = set()  # those whose rows are in memory
        self._changed: set[str] = set()
        self._written = float("-inf")

    def passed(self, before: LeaseState, after: LeaseState, people: Mapping[str, str]) -> None:
        """Count the time between two states for the leases of the first. Time in which the node was off does not count.

        `people`: seat -> person.
        """
        if before.tick.boot_id != after.tick.boot_id or not before.leases:
            return
        spent = list(by_day(self._wall_clock(), max(0.0, after.tick.boottime - before.tick.boottime)))
        self._load(day[:MONTH] for day, _ in spent)
        self._rows = count(self._rows, before, people, spent)
        self._changed |= {day[:MONTH] for day, _ in spent}

    def looked(self, state: LeaseState, used: Iterable[str], seconds: float) -> None:
        """Count GPUs that a look has found in use, `seconds` after the look before it."""
        day = self._wall_clock().date().isoformat()
        self._rows = count_use(self._rows, state, used, day, seconds)

    def write(self, boottime: float, *, is_end: bool = False) -> None:
        """Write what has changed, if the last time is WRITE_EVERY_S ago or a lease has ended (`is_end`)."""
        if self._changed and (is_end or boottime - self._written >= WRITE_EVERY_S):
            self._written = boottime
            for month in sorted(self._changed):
                self._write_month(month)
            self._forget_old()

    def total(self, since: str) -> list[dict[str, Any]]:
        """Return the sums by person and GPU of all days from `since` on. It reads files: for a child process."""
        months = {path.name[:MONTH] for path in self._folder.glob("*.json") if FILE.fullmatch(path.name)}
        others = (row for month in sorted(months - self._months) for row in _read(self._path(month)) or ())
        return total([*others, *self._rows.values()], since)

    def _path(self, month: str) -> Path:
        return self._folder / f"{month}.json"

    def _load(self, months: Iterable[str]) -> None:
        for month in set(months) - self._months:
            self._months.add(month)
            path = self._path(month)
            found = _read(path)
            if found is None:  # it is kept, as it may be possible to repair it
                with contextlib.suppress(OSError):
                    path.replace(path.with_name(f"{path.name}.damaged"))
            self._rows.update({(row.day, row.uid, row.gpu): row for row in found or ()})

    def _write_month(self, month: str) -> None:
        rows = [row._asdict() for row in sorted(self._of(month))]
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(self._path(month), json.dumps({"schema": SCHEMA, "month": month, "rows": rows}))
            self._changed.discard(month)

    def _of(self, month: str) -> Iterator[Row]:
        return (row for row in self._rows.values() if row.day[:MONTH] == month)

    def _forget_old(self) -> None:
        """Keep in memory the current month, and those that could not be written."""
        self._months &= self._changed | {self._wall_clock().date().isoformat()[:MONTH]}
        self._rows = {key: row for key, row in self._rows.items() if row.day[:MONTH] in self._months}


def _read(path: Path) -> list[Row] | None:
    """Return the rows of a file: an empty result where there is no file, None where it cannot be read."""
    try:
        found = json.loads(path.read_text())
        return [_row(row) for row in found["rows"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _row(found: dict[str, Any]) -> Row:
    row = Row(**found)
    numbers = int(row.uid), float(row.held_s), float(row.used_s)
    return Row(str(row.day), numbers[0], str(row.gpu), str(row.person), numbers[1], numbers[2])
