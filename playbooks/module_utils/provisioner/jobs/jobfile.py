"""How far a job on a seat is: a file that the job replaces at every step, and whoever asks reads."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Protocol

from ansible.module_utils.provisioner.base.files import read, write_atomic
from ansible.module_utils.provisioner.base.host import boot_id

STARTTIME = 19  # proc(5): field 22 of stat, of which two come before the state
REPORT_INTERVAL = 0.5  # seconds, for news that differ in numbers only


class JobFolder(Protocol):
    """What a job works on, and where its files lie: a seat, or the node."""

    folder: Path
    jobs: Path

    def make_folders(self) -> None:
        """Where they are missing."""


class Job:
    """The file that tells how far a job is; `phase` is the phase that people are shown."""

    def __init__(self, path: Path, run: str, kind: str) -> None:
        self.path, self.kind = path, kind
        self._begun = self._told = time.monotonic()
        alive = {"pid": os.getpid(), "started": _start_time(os.getpid()), "boot_id": boot_id()}
        self._state: dict[str, Any] = {"run": run, "kind": kind, "phase": kind, "finished": False, **alive}
        self._state.update(text="", done=None, total=None, unit="", record=None)
        self._write()

    def report(self, text: str, done: int | None = None, total: int | None = None, phase: str | None = None) -> None:
        """`done` and `total` in bytes."""
        only_numbers = text == self._state["text"] and done != total
        if only_numbers and time.monotonic() - self._told < REPORT_INTERVAL:
            return
        unit = "" if done is None else "B"
        self._state.update(text=text, done=done, total=total, unit=unit, phase=phase or self._state["phase"])
        self._write()

    def finish(self, record: dict[str, Any]) -> None:
        seconds = round(time.monotonic() - self._begun, 1)
        self._state.update(finished=True, record={**record, "seconds": seconds})
        self._write()

    def _write(self) -> None:
        self._told = time.monotonic()
        write_atomic(self.path, json.dumps(self._state))


def job_path(seat: JobFolder, run: str, kind: str) -> Path:
    return seat.jobs / f"{run}.{kind}.json"


def read_job(path: Path) -> dict[str, Any] | None:
    text = read(path)
    return dict(json.loads(text)) if text else None


def is_alive(job: dict[str, Any]) -> bool:
    """Whether the very process that wrote the file still runs: numbers come round again, start times do not."""
    same_boot = job["boot_id"] == boot_id()
    return same_boot and not job["finished"] and _start_time(job["pid"]) == job["started"]


def _start_time(pid: int) -> str | None:
    after_name = read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()  # the name itself may hold blanks
    return after_name[STARTTIME] if after_name[STARTTIME:] and after_name[0] != "Z" else None


def follow(path: Path, patience: float) -> dict[str, Any]:
    """The job as it is: at once when it has ended, after `patience` seconds, or from half of them on when it has news.

    Each answer costs a start of Python on the node and work on the control machine, and a job's first steps follow
    each other within seconds.
    """
    begun, first = time.monotonic(), None
    while True:
        alive, job = True, read_job(path)
        if job and not job["finished"] and not is_alive(job):
            alive, job = False, read_job(path)  # it may have ended between the two looks
        if job is None or not (alive or job["finished"]):
            return {**(job or {}), "finished": True, "record": {"state": "unknown", "problems": [_died(path)]}}
        first = first or job["text"]
        waited = time.monotonic() - begun
        if job["finished"] or waited >= patience or (job["text"] != first and waited >= patience / 2):
            return job
        time.sleep(0.3)


def _died(path: Path) -> dict[str, str]:
    return {
        "code": "job_died",
        "what": f"the job on the node ended without saying how ({path.name})",
        "why": "its process was killed, or the node was restarted; what is half done is undone at the next contact",
        "fix": "run `provision resume`",
    }
