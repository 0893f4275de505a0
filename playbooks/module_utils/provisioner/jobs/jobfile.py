"""The job file: progress and result of a job, replaced by the job at every step.

Spaces fill it up to a fixed size: on a disk that is full by then, the result is written over the progress.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any, Protocol

from ansible.module_utils.provisioner.base.files import read, read_record, write_atomic
from ansible.module_utils.provisioner.base.host import boot_id
from ansible.module_utils.provisioner.base.problem import ProblemError

STARTTIME = 19  # proc(5): field 22 of stat; counted from the state, which is field 3
ROOM = 1 << 16  # bytes of a job file, unless it is given another size
SHORT = 500  # characters of each text of a problem, where the whole record does not fit
# How many problems of a record, and how many characters of each of their texts, are tried where it does not fit.
SHORTER = ((5, SHORT), (1, 100))
KEPT = ("state", "generation", "seconds", "released")
SHOWN = ("finished", "phase", "text", "done", "total", "unit", "record")  # to the control machine
REPORT_INTERVAL = 1.0  # seconds between two reports that differ in their numbers only


class JobFolder(Protocol):
    """A seat or the node: what a job changes, with the folder of its job files.

    `folder` has the lock. `pattern`: the names of the files of jobs that hold this lock.
    """

    name: str
    folder: Path
    jobs: Path
    pattern: str

    def make_folders(self) -> None:
        """Make the folders that are missing."""


class Job:
    """A running job and its file of `room` bytes. `phase` is the phase that the control machine shows.

    `claim` is the one under which the job runs, None where its orders say that themselves.
    """

    def __init__(
        self, path: Path, run: str, kind: str, *, room: int = ROOM, claim: dict[str, Any] | None = None
    ) -> None:
        """Write the file for the first time, with the identity of this process."""
        self.path, self.kind, self._room = path, kind, room
        self._begun = self._reported = time.monotonic()
        alive = {"pid": os.getpid(), "started": _start_time(os.getpid()), "boot_id": boot_id()}
        self._state: dict[str, Any] = {"run": run, "kind": kind, "phase": kind, "finished": False, **alive}
        self._state.update(claim=claim, text="", done=None, total=None, unit="", record=None)
        self._write()

    def report(self, text: str, done: int | None = None, total: int | None = None, phase: str | None = None) -> None:
        """Write progress to the file; `done` and `total` are bytes. Never raises: progress is not worth a job's end.

        An engine repeats itself ten times a second, so a report that says nothing new is not written, and one with
        other numbers only after REPORT_INTERVAL. That all is done is written at once.
        """
        unit = "" if done is None else "B"
        news = {"text": text, "done": done, "total": total, "unit": unit, "phase": phase or self._state["phase"]}
        changed = {name for name, value in news.items() if self._state[name] != value}
        waits = changed <= {"done", "total"} and done != total
        if not changed or (waits and time.monotonic() - self._reported < REPORT_INTERVAL):
            return
        self._state.update(news)
        with contextlib.suppress(OSError):
            self._write()

    def finish(self, record: dict[str, Any]) -> None:
        """Write the result; `record` gets the duration as `seconds`."""
        seconds = round(time.monotonic() - self._begun, 1)
        self._state.update(finished=True, record={**record, "seconds": seconds})
        try:
            self._write()
        except OSError:
            self._write_in_place()

    def _write(self) -> None:
        self._reported = time.monotonic()
        write_atomic(self.path, json.dumps(self._state).ljust(self._room))

    def _write_in_place(self) -> None:
        """Write over the file, which needs no disk space; a reader may see a part of it for a moment."""
        besides = len(json.dumps({**self._state, "record": None}))
        record = shorten(self._state["record"], self._room - besides)
        with self.path.open("r+b") as file:
            file.write(json.dumps({**self._state, "record": record}).ljust(self._room).encode())
            file.flush()
            os.fsync(file.fileno())


def shorten(record: dict[str, Any], room: int) -> dict[str, Any]:
    """Return a record that has at most `room` bytes as JSON: without less important fields, and with shorter texts."""
    short = record
    for most, characters in SHORTER:
        if len(json.dumps(short)) > room:
            short = _short(record, most, characters)
    return short


def _short(record: dict[str, Any], most: int, characters: int) -> dict[str, Any]:
    found = record.get("problems", [])[:most]
    short = {name: record[name] for name in KEPT if name in record}
    short["problems"] = [{name: word[:characters] for name, word in problem.items()} for problem in found]
    if "seats" in record:
        short["seats"] = {seat: _short(one, most, characters) for seat, one in record["seats"].items()}
    return short


def job_path(seat: JobFolder, run: str, kind: str) -> Path:
    """Return the path of the job file of a run."""
    return seat.jobs / f"{run}.{kind}.json"


def read_job(path: Path) -> dict[str, Any] | None:
    """Return the content of a job file, or None when it is missing or incomplete.

    Raises ProblemError `io_error` when it cannot be read.
    """
    try:
        return dict(json.loads(read_record(path)))
    except (ValueError, TypeError):
        return None


def is_alive(job: dict[str, Any]) -> bool:
    """Return whether the process that wrote the file still runs; PIDs are reused, so start times are compared, too."""
    same_boot = job["boot_id"] == boot_id()
    return same_boot and not job["finished"] and _start_time(job["pid"]) == job["started"]


def _start_time(pid: int) -> str | None:
    after_name = (
        read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    )  # the name may contain spaces and parentheses
    return after_name[STARTTIME] if after_name[STARTTIME:] and after_name[0] != "Z" else None


def follow(path: Path, patience: float) -> dict[str, Any]:
    """Return the state of a job as soon as it has ended, else after at most `patience` seconds.

    Progress is returned early, but only after half of `patience`: each call costs a start of Python on the node and
    work on the control machine.
    """
    begun, first = time.monotonic(), None
    while True:
        try:
            alive, job = True, read_job(path)
            if job and not job["finished"] and not is_alive(job):
                alive, job = False, read_job(path)  # the job may have ended between the two calls
        except ProblemError as fault:
            return _without_result({}, fault.problem)
        if job is None or not (alive or job["finished"]):
            return _without_result(job or {}, _job_died(path))
        first = first or job["text"]
        waited = time.monotonic() - begun
        if job["finished"] or waited >= patience or (job["text"] != first and waited >= patience / 2):
            return job
        time.sleep(0.3)


def shown(job: dict[str, Any]) -> dict[str, Any]:
    """Return what the control machine is told of a job."""
    return {name: job.get(name) for name in SHOWN}


def _without_result(job: dict[str, Any], problem: dict[str, str]) -> dict[str, Any]:
    return {**job, "finished": True, "record": {"state": "unknown", "problems": [problem]}}


def _job_died(path: Path) -> dict[str, str]:
    return {
        "code": "job_died",
        "what": f"the job on the node ended without a result ({path.name})",
        "why": "its process was killed, or the node was restarted; an unfinished switch is undone at the next contact",
        "fix": "run `provision resume`",
    }
