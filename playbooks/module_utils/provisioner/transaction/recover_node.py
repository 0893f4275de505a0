"""Recovery of all seats of a node: at boot, or before a run goes on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
from typing import Any, Iterator

from ansible.module_utils.provisioner.base.host import boot_id
from ansible.module_utils.provisioner.base.problem import ProblemError, printable
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.docker.engine import wait_for_engine
from ansible.module_utils.provisioner.jobs.job import problem_of
from ansible.module_utils.provisioner.seat.compose import Compose
from ansible.module_utils.provisioner.seat.journal import Journal
from ansible.module_utils.provisioner.seat.seat import BROKER, Seat, seats_of
from ansible.module_utils.provisioner.transaction.recover import check_usable, recover_seat

BOOT_SECONDS = 300  # until engine and driver answer after a boot
LEFT = "left"
# Worst first: the state of a node is the worst state of its seats.
STATES = ("needs_attention", "failed", "unknown", "deferred", "rolled_back", "committed", "unchanged")


def recover_seats(order: dict[str, Any], report: Report) -> dict[str, Any]:
    """End unfinished switches on all seats, but for those of the broker, and return the record.

    `checks` has a line for each seat; `generation` is set when the node has one seat only.
    """
    records = {seat.name: _recover_one(seat, order, report) for seat in seats_of(order["state_root"])}
    found = [record["state"] for record in records.values()]
    return {
        "state": next((state for state in STATES if state in found), "unchanged"),
        "generation": next((record["generation"] for record in records.values()), 0) if len(records) == 1 else 0,
        "checks": {name: record["text"] for name, record in records.items()},
        "problems": [problem for record in records.values() for problem in record["problems"]],
    }


def _recover_one(seat: Seat, order: dict[str, Any], report: Report) -> dict[str, Any]:
    problems: list[dict[str, str]] = []
    generation = 0
    try:
        with _locked(seat) as lock:
            state = _end_open_switch(seat, order, lock, report)
        generation = seat.current()
    except BlockingIOError:
        state, generation = "unknown", _generation(seat)  # the running job reports its own result
    except Exception as error:  # noqa: BLE001  (one damaged seat must not stop the recovery of the others)
        state = error.state if isinstance(error, ProblemError) else "failed"
        problems, generation = [problem_of(error)], _generation(seat)
    texts = {"unknown": "a job is running", "unchanged": "no unfinished switch", LEFT: "the broker ends its switch"}
    text, state = texts.get(state, state), "unchanged" if state == LEFT else state
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
