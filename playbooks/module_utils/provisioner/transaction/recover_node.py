"""Recovery of all seats of a node: at boot, or before a run goes on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time
from typing import Any, Iterator

from ansible.module_utils.provisioner.base.host import boot_id
from ansible.module_utils.provisioner.base.problem import ProblemError, printable
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.docker.engine import wait_for_engine
from ansible.module_utils.provisioner.jobs.job import problem_of
from ansible.module_utils.provisioner.mount.check import CODES, has_to_be_mounted, wait_for_mounts
from ansible.module_utils.provisioner.mount.record import note
from ansible.module_utils.provisioner.seat.busy import is_running
from ansible.module_utils.provisioner.seat.compose import Compose
from ansible.module_utils.provisioner.seat.journal import Journal
from ansible.module_utils.provisioner.seat.seat import BROKER, SELF_SERVICE, Seat, seats_of
from ansible.module_utils.provisioner.transaction.recover import check_usable, recover_seat

BOOT_SECONDS = 300  # until engine and driver answer after a boot
MOUNT_SECONDS = 900  # until what seats need is mounted after a boot: their server may have lost its power, too
LEFT, STARTED = "left", "started"
# Worst first: the state of a node is the worst state of its seats.
STATES = ("needs_attention", "failed", "unknown", "deferred", "rolled_back", "committed", "unchanged")


def recover_seats(order: dict[str, Any], report: Report) -> dict[str, Any]:
    """End unfinished switches on all seats, but for those of the broker, and return the record.

    Seats that the engine does not start, as something has to be mounted first, come last, and are started.

    `checks` has a line for each seat; `generation` is set when the node has one seat only.
    """
    deadline = time.monotonic() + MOUNT_SECONDS
    seats = sorted(seats_of(order["state_root"]), key=_waits_for_mounts)
    records = {seat.name: _recover_one(seat, order, deadline, report) for seat in seats}
    found = [record["state"] for record in records.values()]
    return {
        "state": next((state for state in STATES if state in found), "unchanged"),
        "generation": next((record["generation"] for record in records.values()), 0) if len(records) == 1 else 0,
        "checks": {name: record["text"] for name, record in records.items()},
        "problems": [problem for record in records.values() for problem in record["problems"]],
    }


def _waits_for_mounts(seat: Seat) -> bool:
    """Return whether this recovery has to start a seat, as far as it can be read; the broker starts its own."""
    with contextlib.suppress(ProblemError):
        number = seat.current()
        kept = seat.order(number) if number and not seat.is_wanted_down() else None
        return bool(kept and has_to_be_mounted(kept) and kept["seat"].get("kind") != SELF_SERVICE)
    return False


def _recover_one(seat: Seat, order: dict[str, Any], deadline: float, report: Report) -> dict[str, Any]:
    problems: list[dict[str, str]] = []
    generation = 0
    try:
        if _waits_for_mounts(seat):
            wait_for_mounts(seat.order(seat.current()), deadline, report)
        with _locked(seat) as lock:
            state = _end_open_switch(seat, order, lock, report)
            if state == "unchanged" and _waits_for_mounts(seat):  # it may have been stopped meanwhile
                state = _start(seat, order, lock)
        generation = seat.current()
    except BlockingIOError:
        state, generation = "unknown", _generation(seat)  # the running job reports its own result
    except Exception as error:  # noqa: BLE001  (one damaged seat must not stop the recovery of the others)
        state = error.state if isinstance(error, ProblemError) else "failed"
        problems, generation = [problem_of(error)], _generation(seat)
    note(seat.folder, next((problem for problem in problems if problem["code"] in CODES), None))
    texts = {
        "unknown": "a job is running",
        "unchanged": "no unfinished switch",
        LEFT: "the broker ends its switch",
        STARTED: "its mounts are there, and it was started",
    }
    text, state = texts.get(state, state), "unchanged" if state in (LEFT, STARTED) else state
    return {"state": state, "generation": generation, "text": f"{text}; generation {generation}", "problems": problems}


def _generation(seat: Seat) -> int:
    """Return the current generation, 0 when it cannot be read."""
    with contextlib.suppress(ProblemError):
        return seat.current()
    return 0


def _end_open_switch(seat: Seat, order: dict[str, Any], lock: int, report: Report) -> str:
    compose, journal = Compose(seat, (lock,)), Journal(seat.folder, order["run"])
    check_usable(compose, journal)
    step = journal.open_switch()
    if step is None:
        return "unchanged"
    if _is_of_broker(seat, step["detail"]["to"]):
        return LEFT  # the lease may be over: the broker alone knows whether the seat is to run, and with which GPUs
    recover_seat(compose, journal, order, report)
    return str((journal.last_step() or {})["state"])


def _start(seat: Seat, order: dict[str, Any], lock: int) -> str:
    """Start a seat that the boot has stopped, and return STARTED. One that was stopped or removed before stays down."""
    compose, last = Compose(seat, (lock,)), Journal(seat.folder, order["run"]).last_step()
    is_stopped = last is not None and last["state"] == "stopped"
    if is_stopped or not compose.ours() or is_running(compose):
        return "unchanged"
    compose.up(seat.current())
    return STARTED


def _is_of_broker(seat: Seat, number: int) -> bool:
    """Return whether a generation is that of an order of the broker, as far as it can be read."""
    with contextlib.suppress(ProblemError):
        return bool(seat.order(number).get("by") == BROKER)
    return False


@contextlib.contextmanager
def _locked(seat: Seat) -> Iterator[int]:
    """Hold the lock of a seat. Raises BlockingIOError when a job holds it."""
    lock = os.open(str(seat.folder / "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield lock
    finally:
        os.close(lock)


def _print(text: str, *_: Any, **__: Any) -> None:
    """Write to stdout, which systemd forwards to the system log, if that is possible."""
    with contextlib.suppress(OSError):
        sys.stdout.write(f"{printable(text)}\n")
        sys.stdout.flush()


def recover_at_boot(state_root: str) -> int:
    """Recover all seats after a boot. Return the exit status: 0 when each seat runs its old or its new generation."""
    # GPU use is unknown until the driver answers.
    patience = {"policy": "wait", "seconds": BOOT_SECONDS}
    order = {"run": f"boot-{boot_id()[:8]}", "state_root": state_root, "when_busy": patience}
    try:
        wait_for_engine(BOOT_SECONDS)
        record = recover_seats(order, _print)
    except ProblemError as fault:
        record = {"state": "failed", "problems": [fault.problem]}
    _print(json.dumps(record))
    return 0 if record["state"] in ("unchanged", "committed", "rolled_back") else 1
