"""Work on a seat that goes on when the connection is lost: a process of its own, one at a time, told of in a file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import traceback
from pathlib import Path
from typing import Any, Callable, Dict

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.jobs.jobfile import Job, JobFolder, is_alive, job_path, read_job

KEEP_JOBS = 20
FINAL_STATES = ("committed", "rolled_back", "needs_attention")
LOCK_WAIT_SECONDS = 30  # for which a job that was killed may leave compose at work, and the lock with it

Work = Callable[[Job, int], Dict[str, Any]]  # the job, and the lock's descriptor; returns the record


def start(seat: JobFolder, run: str, kind: str, work: Work) -> Path:
    """Starts `work`, unless this run's job is at it already. Returns the job's file when it has begun.

    Raises ProblemError `seat_locked` where another job is.
    """
    seat.make_folders()
    path = job_path(seat, run, kind)
    lock = os.open(str(seat.folder / "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if _take(lock, seat, (run, kind)):
            _prune(seat)
            _detach(lock, path, (run, kind), work)
    finally:
        os.close(lock)
    return path


def start_once(seat: JobFolder, run: str, kind: str, work: Work) -> Path:
    """A run moves a seat once: whoever asks again is told how it ended. What touched nothing may be tried again."""
    path = job_path(seat, run, kind)
    job = read_job(path) or {}
    if job.get("finished") and job["record"]["state"] in FINAL_STATES:
        return path
    return start(seat, run, kind, work)


def _take(lock: int, seat: JobFolder, wanted: tuple[str, str]) -> bool:
    """False where the job that is wanted holds the lock. What a killed job had begun is waited for."""
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(seat)
            if holder and (holder["run"], holder["kind"]) == wanted:
                return False
            if holder or time.monotonic() > deadline:
                raise _locked(holder) from None
            time.sleep(0.2)
        else:
            return True


def _holder(seat: JobFolder) -> dict[str, Any] | None:
    jobs = [read_job(path) for path in seat.jobs.glob("*.json")]
    return next((job for job in jobs if job and is_alive(job)), None)


def _prune(seat: JobFolder) -> None:
    for path in sorted(seat.jobs.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-KEEP_JOBS]:
        path.unlink()


def _detach(lock: int, path: Path, what: tuple[str, str], work: Work) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.setsid()
        if not os.fork():
            _run(lock, writer, lambda: Job(path, *what), work)
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    begun = os.read(reader, 1)
    os.close(reader)
    if not begun:
        raise _not_started()


def _run(lock: int, writer: int, make_job: Callable[[], Job], work: Work) -> None:
    """In the new process. Nothing of the connection that brought us may stay open, or it would wait for us."""
    try:
        job = make_job()
        os.write(writer, b".")
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        for descriptor in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208  (names, to be closed)
            if descriptor not in (0, 1, 2, lock):
                _close(descriptor)
        os.chdir("/")
        job.finish(_outcome(job, lock, work))
    finally:
        os._exit(0)


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # the listing's own is gone already
        os.close(descriptor)


def _outcome(job: Job, lock: int, work: Work) -> dict[str, Any]:
    try:
        return work(job, lock)
    except ProblemError as fault:
        return {"state": fault.state, "problems": [fault.problem]}
    except Exception:  # noqa: BLE001  (nobody else is left to tell it)
        return {"state": "failed" if job.kind == "stage" else "needs_attention", "problems": [node_bug()]}


def node_bug() -> dict[str, str]:
    """Of the exception at hand."""
    return {
        "code": "node_bug",
        "what": traceback.format_exc(limit=-1).strip().replace("\n", " "),
        "why": "the program that the node was sent met something that it does not know",
        "fix": f"report it, with this:\n{traceback.format_exc()}",
    }


def _locked(holder: dict[str, Any] | None) -> ProblemError:
    who = f"run {holder['run']} is at it ({holder['kind']}: {holder['text']})" if holder else "its last act still runs"
    return ProblemError(
        "seat_locked",
        f"the seat is being changed: {who}",
        "two changes of one seat at the same time would leave it as neither wanted",
        "wait until it has ended, then run the command again",
    )


def _not_started() -> ProblemError:
    return ProblemError(
        "job_not_started",
        "the job could not begin on the node",
        "it could not even write its own file",
        "look for room and for a read-only file system on the node: df -h, mount",
    )
