"""Jobs: background processes that continue when the connection is lost, one at a time for each seat."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

from ansible.module_utils.provisioner.base.command import close_inherited
from ansible.module_utils.provisioner.base.problem import ProblemError, as_fault
from ansible.module_utils.provisioner.jobs.jobfile import Job, JobFolder, is_alive, job_path, read_job

KEEP_JOBS = 20
FINAL_STATES = ("committed", "rolled_back", "needs_attention")
HARMLESS = ("stage", "fetch")  # kinds of jobs that change nothing that runs
LOCK_WAIT_SECONDS = 30  # compose may outlive a killed job for that long, and keeps the lock meanwhile

Work = Callable[[Job, int], Dict[str, Any]]  # (job, file descriptor of the lock) -> record
MakeJob = Callable[[Path, str, str], Job]  # (job file, run, kind)


def start(seat: JobFolder, run: str, kind: str, work: Work, make_job: MakeJob = Job) -> Path:
    """Start `work` as a job, unless this job is running already. Return the job file once the job has begun.

    Raises ProblemError `seat_locked` when another job holds the seat, and `job_not_started`.
    """
    seat.make_folders()
    path = job_path(seat, run, kind)
    lock = os.open(str(seat.folder / "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if _take_lock(lock, seat, (run, kind)):
            _prune(seat)
            _detach(lock, lambda: make_job(path, run, kind), work)
    finally:
        os.close(lock)
    return path


def start_once(seat: JobFolder, run: str, kind: str, work: Work) -> Path:
    """Start the job as `start` does, unless this run's job has ended in a final state already."""
    path = job_path(seat, run, kind)
    job = read_job(path) or {}
    if job.get("finished") and job["record"]["state"] in FINAL_STATES:
        return path
    return start(seat, run, kind, work)


def _take_lock(lock: int, seat: JobFolder, wanted: tuple[str, str]) -> bool:
    """Lock the seat and return True; return False when the wanted job holds the lock.

    A command that outlived a killed job is waited for.
    """
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = running_job(seat)
            if holder and (holder["run"], holder["kind"]) == wanted:
                return False
            if holder or time.monotonic() > deadline:
                raise _seat_locked(seat, holder) from None
            time.sleep(0.2)
        else:
            return True


def running_job(seat: JobFolder) -> dict[str, Any] | None:
    """Return the content of the file of the job that is running, None when none is."""
    return next(running_jobs(seat), None)


def running_jobs(seat: JobFolder) -> Iterator[dict[str, Any]]:
    """Yield the content of the file of each job that is running."""
    for path in seat.jobs.glob(seat.pattern):
        with contextlib.suppress(ProblemError):  # a file that cannot be read names no holder
            job = read_job(path)
            if job and is_alive(job):
                yield job


def check_no_job(folder: JobFolder) -> None:
    """Raise ProblemError `node_busy` when a job that changes the whole node is running."""
    holder = running_job(folder)
    if holder:
        raise _node_busy(holder)


def _prune(seat: JobFolder) -> None:
    with contextlib.suppress(OSError):  # an unexpected file there must not prevent a job
        for path in sorted(seat.jobs.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-KEEP_JOBS]:
            path.unlink()


def _detach(lock: int, make_job: Callable[[], Job], work: Work) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.setsid()
        if not os.fork():
            _run(lock, writer, make_job, work)
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    begun = os.read(reader, 1)
    os.close(reader)
    if not begun:
        raise _not_started()


def _run(lock: int, writer: int, make_job: Callable[[], Job], work: Work) -> None:
    """Run the job in the new process. All inherited descriptors are closed, or the connection would stay open."""
    try:
        job = make_job()
        os.write(writer, b".")
        close_inherited(lock)
        os.chdir("/")
        job.finish(_outcome(job, lock, work))
    finally:
        os._exit(0)


def _outcome(job: Job, lock: int, work: Work) -> dict[str, Any]:
    try:
        return work(job, lock)
    except ProblemError as fault:
        return {"state": fault.state, "problems": [fault.problem]}
    except Exception as error:  # noqa: BLE001  (the record is the only way to report it)
        return {"state": "failed" if job.kind in HARMLESS else "needs_attention", "problems": [problem_of(error)]}


def problem_of(error: Exception) -> dict[str, str]:
    """Return the problem of any exception, which is being handled."""
    return as_fault(error).problem if isinstance(error, (ProblemError, OSError)) else node_bug()


def node_bug() -> dict[str, str]:
    """Return the problem `node_bug` for the exception that is being handled."""
    return {
        "code": "node_bug",
        "what": traceback.format_exc(limit=-1).strip().replace("\n", " "),
        "why": "an unexpected error in the node code",
        "fix": f"report it with this traceback:\n{traceback.format_exc()}",
    }


def _seat_locked(seat: JobFolder, holder: dict[str, Any] | None) -> ProblemError:
    by_run = f"by run {holder['run']} ({holder['kind']}: {holder['text']})" if holder else None
    return ProblemError(
        "seat_locked",
        f"{seat.name} is being changed: {by_run or 'a previous command is still running'}",
        "only one job may change it at a time",
        "wait until it has ended, then run the command again",
    )


def _node_busy(holder: dict[str, Any]) -> ProblemError:
    return ProblemError(
        "node_busy",
        f"the node is being prepared by run {holder['run']} ({holder['kind']}: {holder['text']})",
        "that may restart its engine, or remove images from the registry that it hosts",
        "wait until it has ended, then run the command again",
    )


def _not_started() -> ProblemError:
    return ProblemError(
        "job_not_started",
        "the job did not start on the node",
        "the job could not write its own file",
        "check the node for a full or read-only file system: df -h, mount",
    )
