"""Ends what a killed process or a power cut left open, on every seat of a node, and says how each stands."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
from typing import Any, Callable, Iterator

from ansible.module_utils.provisioner_compose import Compose
from ansible.module_utils.provisioner_engine import wait_for_engine
from ansible.module_utils.provisioner_host import Fault, boot_id, clean
from ansible.module_utils.provisioner_journal import Journal
from ansible.module_utils.provisioner_seat import Seat, seats_of
from ansible.module_utils.provisioner_switching import check_sound, recover

BOOT_SECONDS = 300  # for an engine to start, and for a driver to answer
# The worst first: a node stands as the worst of its seats does.
STATES = ("needs_attention", "failed", "unknown", "deferred", "rolled_back", "committed", "unchanged")

Tell = Callable[..., None]


def recover_all(order: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """The record: `checks` has a word on each seat; `generation` is that of a node's only seat."""
    records = {seat.name: _recovered(seat, order, tell) for seat in seats_of(order["state_root"])}
    found = [record["state"] for record in records.values()]
    return {
        "state": next((state for state in STATES if state in found), "unchanged"),
        "generation": next((record["generation"] for record in records.values()), 0) if len(records) == 1 else 0,
        "checks": {name: record["word"] for name, record in records.items()},
        "problems": [problem for record in records.values() for problem in record["problems"]],
    }


def _recovered(seat: Seat, order: dict[str, Any], tell: Tell) -> dict[str, Any]:
    problems: list[dict[str, str]] = []
    try:
        with _locked(seat) as lock:
            state = _end(seat, order, lock, tell)
    except BlockingIOError:
        state = "unknown"  # its job goes on, and says itself how it ends
    except Fault as fault:
        state, problems = fault.state, [fault.problem]
    word = {"unknown": "a job is at work", "unchanged": "nothing was open"}.get(state, state)
    generation = seat.current()
    return {"state": state, "generation": generation, "word": f"{word}; generation {generation}", "problems": problems}


def _end(seat: Seat, order: dict[str, Any], lock: int, tell: Tell) -> str:
    compose, journal = Compose(seat, (lock,)), Journal(seat.folder, order["run"])
    check_sound(compose, journal)
    if journal.interrupted() is None:
        return "unchanged"
    recover(compose, journal, order, tell)
    return str((journal.standing() or {})["state"])


@contextlib.contextmanager
def _locked(seat: Seat) -> Iterator[int]:
    """Raises BlockingIOError where a job holds the seat."""
    lock = os.open(str(seat.folder / "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield lock
    finally:
        os.close(lock)


def _say(text: str, **_: Any) -> None:
    """To the system's log, by way of systemd."""
    sys.stdout.write(f"{clean(text)}\n")
    sys.stdout.flush()


def at_boot(state_root: str) -> int:
    """The exit status: 0 where every seat is on its old or its new generation."""
    # Who is at work cannot be known before the driver answers.
    patience = {"policy": "wait", "seconds": BOOT_SECONDS}
    order = {"run": f"boot-{boot_id()[:8]}", "state_root": state_root, "when_busy": patience}
    try:
        wait_for_engine(BOOT_SECONDS)
        record = recover_all(order, _say)
    except Fault as fault:
        record = {"state": "failed", "problems": [fault.problem]}
    _say(json.dumps(record))
    return 0 if record["state"] in ("unchanged", "committed", "rolled_back") else 1
