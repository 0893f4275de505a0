"""What a seat went through: one line of JSON for each step, on disk before the step is taken."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.module_utils.provisioner.base.files import read, sync_folder
from ansible.module_utils.provisioner.base.host import boot_id, now
from ansible.module_utils.provisioner.base.problem import io_problem

# Between these and the next line a seat is neither on old nor on new.
OPEN_STATES = ("switching", "verifying", "rolling_back")
# What is noted beside a transaction, and neither begins nor ends one.
NOTES = ("staged", "forced")


class Journal:
    def __init__(self, folder: Path, run: str) -> None:
        self._path = folder / "journal.jsonl"
        self._run = run

    def append(self, state: str, **detail: Any) -> None:
        """Raises ProblemError where the line does not reach the disk; then nothing must be done."""
        try:
            self._write(state, detail)
        except OSError as error:
            raise io_problem(error) from None

    def _write(self, state: str, detail: dict[str, Any]) -> None:
        line = {"seq": len(self.lines()) + 1, "at": now(), "boot_id": boot_id(), "run": self._run, "state": state}
        new = not self._path.exists()
        descriptor = os.open(str(self._path), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # The newline first: after a line that a power cut left half written, this one is whole again.
            os.write(descriptor, b"" if new else b"\n")
            os.write(descriptor, json.dumps({**line, "detail": detail}).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if new:
            sync_folder(self._path.parent)

    def lines(self) -> list[dict[str, Any]]:
        """Every whole line, oldest first."""
        return [line for line in map(_parsed, read(self._path).splitlines()) if line]

    def last_step(self) -> dict[str, Any] | None:
        """The last step of the last transaction."""
        return next((line for line in reversed(self.lines()) if line["state"] not in NOTES), None)

    def target(self, run: str) -> int:
        """The generation to which this run set out last, 0 where it did not."""
        steps = [line for line in self.lines() if line["run"] == run and line["state"] == "switching"]
        return int(steps[-1]["detail"]["to"]) if steps else 0

    def host_key(self) -> str:
        """The one with which the seat was committed last; empty where an older release did not note it."""
        keys = [line["detail"].get("host_key") for line in self.lines() if line["state"] == "committed"]
        return next((str(key) for key in reversed(keys) if key), "")

    def rollback_attempts(self) -> int:
        """How often the last switch was begun to be undone."""
        states = [line["state"] for line in self.lines()]
        return states[::-1][: states[::-1].index("switching")].count("rolling_back") if "switching" in states else 0

    def open_switch(self) -> dict[str, Any] | None:
        """The step `switching` of a transaction that has no end."""
        last = self.last_step()
        if last is None or last["state"] not in OPEN_STATES:
            return None
        return next((line for line in reversed(self.lines()) if line["state"] == "switching"), None)


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return dict(json.loads(text))
    except ValueError:
        return None
