"""A batch: the job of a node that carries out the orders of several seats, each by a job of its own.

The jobs of seats go on when the batch is killed. The same batch, started again, finds those that run or have ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterable

from ansible.module_utils.provisioner.base.files import write_atomic
from ansible.module_utils.provisioner.base.fill import fill, slotted
from ansible.module_utils.provisioner.base.host import boot_id
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.jobs.claims import is_fenced, with_release
from ansible.module_utils.provisioner.jobs.gpu_order import find_givers
from ansible.module_utils.provisioner.jobs.job import KEEP_JOBS, problem_of, running_job, running_jobs, start
from ansible.module_utils.provisioner.jobs.jobfile import ROOM, Job, follow, is_alive, shorten
from ansible.module_utils.provisioner.jobs.node_jobs import BatchJobs, NodeJobs

POLL_SECONDS = 0.2
KILL_SECONDS = 5  # for a killed batch to end
MOST_AT_ONCE = 4
CORES_PER_SEAT = 4
MOST_FAILURES = 3  # before the first success
SEAT_ROOM = 1 << 12  # bytes of the job file for the record of one seat
MOST_ROOM = 600_000  # bytes; the file is passed on as one result, see MOST_BYTES of action_plugins/normal.py
SUCCESSES = {"committed", "unchanged", "staged"}
FAILURES = {"failed", "rolled_back", "needs_attention", "unknown"}
KEEP_CLAIM = {"stage"}  # the switch follows

Begin = Callable[[Dict[str, Any]], Path]  # starts the job of an order, or finds it; returns its file


def start_batch(batch: dict[str, Any], kind: str, begin: Begin) -> Path:
    """Start the job that carries out the orders of a batch, unless it is running already. Return its file.

    Batches of several runs are carried out at the same time, as their claims have no seat in common. A running batch
    whose claim was replaced is ended first: its orders are no longer valid, and the jobs of its seats go on.
    Raises ProblemError as `start` does.
    """
    orders, state_root = expand(batch), batch["state_root"]
    folder = BatchJobs(state_root, batch["run"])
    _end_invalid(state_root)
    _prune_runs(state_root)

    def work(job: Job, _: int) -> dict[str, Any]:
        began = begun_at(folder.folder / f"{kind}.begun")
        givers = {} if kind in KEEP_CLAIM else find_givers(orders)  # nothing changes before the switch
        return carry_out(batch, SeatJobs(orders, begin, began, givers), job)

    make_job = partial(Job, room=min(ROOM + SEAT_ROOM * len(orders), MOST_ROOM), claim=batch["claim"])
    return start(folder, batch["run"], kind, work, make_job)


def _end_invalid(state_root: str) -> None:
    """End the running batches whose claims were replaced by later ones."""
    for running in running_jobs(NodeJobs(state_root, "batch")):
        if (claim := _claim_of(running)) and is_fenced(state_root, claim):
            _end(running)


def _claim_of(job: dict[str, Any]) -> dict[str, Any] | None:
    """Return the claim of a batch; an earlier release records its fence alone, which is one of the whole node."""
    return job["claim"] if "claim" in job else {"fence": job.get("fence", 0), "scope": "node"}


def _end(running: dict[str, Any]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(running["pid"], signal.SIGKILL)
    deadline = time.monotonic() + KILL_SECONDS
    while is_alive(running) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _prune_runs(state_root: str) -> None:
    """Remove the folders of the oldest runs without a batch that runs."""
    with contextlib.suppress(OSError):  # an unexpected file there must not prevent a batch
        runs = sorted(BatchJobs(state_root, "x").folder.parent.glob("*"), key=lambda path: path.stat().st_mtime)
        for path in runs[:-KEEP_JOBS]:
            if not running_job(BatchJobs(state_root, path.name)):
                shutil.rmtree(str(path))


def begun_at(path: Path) -> float:
    """Return when the first batch of this run and kind began on the node, as time.monotonic; keep it in the file.

    After a restart of the node it begins anew: what the seats waited for has ended.
    """
    boot, at = boot_id(), time.monotonic()
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(path.read_text())
        if found["boot_id"] == boot:
            return float(found["at"])
    with contextlib.suppress(OSError):  # a full disk must not prevent the batch
        write_atomic(path, json.dumps({"boot_id": boot, "at": at}))
    return at


def expand(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the orders of a batch with the files of their seats: on the way, an order has the digest of a document.

    `document` then has the files with slots only: with it, a node can fill them for other GPUs.
    """
    documents = batch["documents"]
    return [
        {**order, "files": fill(document, order["seat"]), "document": slotted(document)}
        if (document := documents.get(order.get("document")))
        else order
        for order in batch["orders"]
    ]


def carry_out(batch: dict[str, Any], seat_jobs: SeatJobs, job: Job) -> dict[str, Any]:
    """Carry out all orders, then release the claim. Return the record of the node: see `node_record`."""
    record = node_record(seat_jobs.run(job.report))
    return record if job.kind in KEEP_CLAIM else with_release(batch, record)


def node_record(records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the record of a node from those of its seats by name."""
    return shorten({"released": False, "seats": records}, MOST_ROOM)


def records_of(
    orders: Iterable[dict[str, Any]], carry_out_order: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Carry out orders one after the other, without jobs. Return the record of each seat by its name.

    An exception becomes the record of its seat: one seat must not stop the others.
    """
    return {order["seat"]["name"]: _record_or_fault(order, carry_out_order) for order in orders}


def _record_or_fault(
    order: dict[str, Any], carry_out_order: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    try:
        return carry_out_order(order)
    except Exception as error:  # noqa: BLE001  (see `records_of`)
        return fault_record(error)


def fault_record(error: Exception) -> dict[str, Any]:
    """Return the record of a seat for which an exception, which is being handled, was raised before any change."""
    state = error.state if isinstance(error, ProblemError) else "failed"
    return {"state": state, "problems": [problem_of(error)]}


class SeatJobs:
    """The jobs of the seats of a batch: one at a time until one has succeeded, then several at once.

    If MOST_FAILURES have failed before any has succeeded, the others are not started: they keep running. An order that
    stops a seat, or changes it while it runs, does not count as a success: nothing was started by it.

    Where orders wait for running work, they wait together: each for what is left of its time since the first batch of
    the run began, also where that was killed.

    Seats are stopped before others are started. A seat that gets GPUs of others is begun after these have ended; where
    one of them was not changed, it keeps its GPUs, and the seat is deferred. A seat whose job had an older claim of the
    run is begun again once.
    """

    def __init__(
        self, orders: Iterable[dict[str, Any]], begin: Begin, began: float, givers: dict[str, set[str]]
    ) -> None:
        """Nothing is started yet; `begin` starts the job of an order.

        `began`: see `begun_at`. `givers`: see `find_givers`.
        """
        self._waiting = {order["seat"]["name"]: order for order in orders}
        self._orders, self._begin, self._givers = dict(self._waiting), begin, givers
        self._outdated: set[str] = set()
        others = {name for name, order in self._waiting.items() if order.get("act")}
        self._tried = set(self._waiting) - others or others
        self._running: dict[str, Path] = {}
        self._records: dict[str, dict[str, Any]] = {}
        self._reported: tuple[Any, ...] = ()
        self._began = began

    def run(self, report: Report) -> dict[str, dict[str, Any]]:
        """Carry out all orders. Return the record of each seat by its name."""
        while self._waiting or self._running:
            self._start_next()
            if self._running and not self._collect(report):
                time.sleep(POLL_SECONDS)
        return self._records

    def _start_next(self) -> None:
        """Start as many jobs as may run now, or give up the waiting ones."""
        if self._count(FAILURES) >= MOST_FAILURES and not self._count(SUCCESSES):
            self._records.update(dict.fromkeys(self._waiting, _not_started()))
            self._waiting.clear()
        self._defer_without_gpus()
        ready = [seat for seat in self._waiting if not self._open_givers(seat)]
        for seat in ready[: self._most_at_once() - len(self._running)]:
            order = self._waiting.pop(seat)
            try:
                self._running[seat] = self._begin(self._with_time_left(order))
            except Exception as error:  # noqa: BLE001  (one seat must not stop the others)
                self._records[seat] = fault_record(error)
        if self._waiting and not (ready or self._running):  # no plan has seats that wait for each other
            seat = next(iter(self._waiting))
            self._defer(seat, self._open_givers(seat)[0])

    def _open_givers(self, seat: str) -> list[str]:
        """Return the seats with GPUs of this one that have not ended yet."""
        return sorted(self._givers.get(seat, set()) - set(self._records))

    def _defer_without_gpus(self) -> None:
        """Defer the waiting seats with GPUs of one that has ended and was not changed, such as a deferred one."""
        while kept := self._first_without_gpus():
            self._defer(*kept)

    def _first_without_gpus(self) -> tuple[str, str] | None:
        """Return a waiting seat and the one that has kept its GPUs."""
        kept = {name for name, record in self._records.items() if record["state"] not in SUCCESSES}
        found = ((seat, giver) for seat in self._waiting for giver in sorted(self._givers.get(seat, set()) & kept))
        return next(found, None)

    def _defer(self, seat: str, holder: str) -> None:
        self._waiting.pop(seat)
        self._records[seat] = _deferred(holder)

    def _with_time_left(self, order: dict[str, Any]) -> dict[str, Any]:
        """Return an order that waits for running work no longer than until the deadline of the node."""
        wanted = order.get("when_busy") or {}
        if wanted.get("policy") != "wait":
            return order
        left = max(0, int(self._began + wanted["seconds"] - time.monotonic()))
        return {**order, "when_busy": {**wanted, "seconds": left}}

    def _most_at_once(self) -> int:
        cores = os.cpu_count() or 1
        return max(1, min(MOST_AT_ONCE, cores // CORES_PER_SEAT)) if self._count(SUCCESSES) else 1

    def _count(self, states: set[str]) -> int:
        return sum(self._records[name]["state"] in states for name in self._tried & set(self._records))

    def _collect(self, report: Report) -> bool:
        """Take the records of the jobs that have ended; report the progress of the oldest other one.

        Return whether one has ended.
        """
        found = {seat: follow(path, 0) for seat, path in self._running.items()}
        ended = {seat: job["record"] for seat, job in found.items() if job["finished"]}
        self._records.update(ended)
        self._running = {seat: path for seat, path in self._running.items() if seat not in ended}
        self._begin_again(ended)
        for seat in list(self._running)[:1]:
            self._report(report, seat, found[seat])
        return bool(ended)

    def _begin_again(self, ended: dict[str, dict[str, Any]]) -> None:
        """Let the seats wait again whose jobs had an older claim of the run."""
        outdated = {seat for seat, record in ended.items() if _is_fenced(record)} - self._outdated
        self._outdated |= outdated
        self._waiting = {**{seat: self._orders[seat] for seat in outdated}, **self._waiting}
        for seat in outdated:
            del self._records[seat]

    def _report(self, report: Report, seat: str, job: dict[str, Any]) -> None:
        """Report the progress of a seat: the only one, or one of several."""
        text = f"{len(self._records)} of {len(self._orders)} seats; {seat}: {job['text']}"
        progress = (text, None, None) if len(self._orders) > 1 else (job["text"], job["done"], job["total"])
        news = (*progress, job["phase"])
        if job["text"] and news != self._reported:
            self._reported = news
            report(*news)


def _is_fenced(record: dict[str, Any]) -> bool:
    return any(problem["code"] == "fenced" for problem in record.get("problems", ()))


def _deferred(holder: str) -> dict[str, Any]:
    fault = ProblemError(
        "gpu_held",
        f"{holder} still has GPUs that the seat gets, and was neither changed nor stopped",
        "an own GPU has one user: two people would compute on it without knowing of each other",
        f"see the problems of {holder}, then run the command again",
    )
    return {"state": "deferred", "problems": [fault.problem]}


def _not_started() -> dict[str, Any]:
    fault = ProblemError(
        "first_seats_failed",
        f"the first {MOST_FAILURES} seats of the node failed, and none succeeded",
        "what stopped them would probably stop the others, which therefore keep running as they are",
        "see the problems of the seats that failed, then run the command again",
    )
    return {"state": "not_started", "problems": [fault.problem]}
