"""Ends what a killed process or a power cut left open, on every seat of a node, and says how each stands."""

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
from ansible.module_utils.provisioner.docker import engine
from ansible.module_utils.provisioner.docker.engine import wait_for_engine
from ansible.module_utils.provisioner.seat.busy import require_consent
from ansible.module_utils.provisioner.seat.compose import Compose
from ansible.module_utils.provisioner.seat.journal import Journal
from ansible.module_utils.provisioner.seat.seat import Seat, seats_of
from ansible.module_utils.provisioner.transaction.undo import undo_switch
from ansible.module_utils.provisioner.transaction.verify import clear_verify_keys

BOOT_SECONDS = 300  # for an engine to start, and for a driver to answer
# The worst first: a node stands as the worst of its seats does.
STATES = ("needs_attention", "failed", "unknown", "deferred", "rolled_back", "committed", "unchanged")


def recover_seats(order: dict[str, Any], report: Report) -> dict[str, Any]:
    """The record: `checks` has a word on each seat; `generation` is that of a node's only seat."""
    records = {seat.name: _recover_one(seat, order, report) for seat in seats_of(order["state_root"])}
    found = [record["state"] for record in records.values()]
    return {
        "state": next((state for state in STATES if state in found), "unchanged"),
        "generation": next((record["generation"] for record in records.values()), 0) if len(records) == 1 else 0,
        "checks": {name: record["word"] for name, record in records.items()},
        "problems": [problem for record in records.values() for problem in record["problems"]],
    }


def _recover_one(seat: Seat, order: dict[str, Any], report: Report) -> dict[str, Any]:
    problems: list[dict[str, str]] = []
    try:
        with _locked(seat) as lock:
            state = _end_open_switch(seat, order, lock, report)
    except BlockingIOError:
        state = "unknown"  # its job goes on, and says itself how it ends
    except ProblemError as fault:
        state, problems = fault.state, [fault.problem]
    word = {"unknown": "a job is at work", "unchanged": "nothing was open"}.get(state, state)
    generation = seat.current()
    return {"state": state, "generation": generation, "word": f"{word}; generation {generation}", "problems": problems}


def _end_open_switch(seat: Seat, order: dict[str, Any], lock: int, report: Report) -> str:
    compose, journal = Compose(seat, (lock,)), Journal(seat.folder, order["run"])
    check_usable(compose, journal)
    if journal.open_switch() is None:
        return "unchanged"
    recover_seat(compose, journal, order, report)
    return str((journal.last_step() or {})["state"])


@contextlib.contextmanager
def _locked(seat: Seat) -> Iterator[int]:
    """Raises BlockingIOError where a job holds the seat."""
    lock = os.open(str(seat.folder / "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield lock
    finally:
        os.close(lock)


def _print(text: str, *_: Any, **__: Any) -> None:
    """To the system's log, by way of systemd."""
    sys.stdout.write(f"{printable(text)}\n")
    sys.stdout.flush()


def recover_at_boot(state_root: str) -> int:
    """The exit status: 0 where every seat is on its old or its new generation."""
    # Who is at work cannot be known before the driver answers.
    patience = {"policy": "wait", "seconds": BOOT_SECONDS}
    order = {"run": f"boot-{boot_id()[:8]}", "state_root": state_root, "when_busy": patience}
    try:
        wait_for_engine(BOOT_SECONDS)
        record = recover_seats(order, _print)
    except ProblemError as fault:
        record = {"state": "failed", "problems": [fault.problem]}
    _print(json.dumps(record))
    return 0 if record["state"] in ("unchanged", "committed", "rolled_back") else 1


ATTEMPTS = 3  # at ending one switch, each of which a kill or a power cut may have ended
CHECK_SECONDS = 120  # in which a check of ours that nobody follows any more has ended


class NeedsAttentionError(ProblemError):
    """Neither the new generation nor the old one could be brought up; no program tries again by itself."""

    state = "needs_attention"


def check_usable(compose: Compose, journal: Journal) -> None:
    """Raises Stuck where a person is needed: until they go back, remove or stop the seat, or it is healthy again."""
    last = journal.last_step()
    if last and last["state"] == "needs_attention" and set(compose.services().values()) != {"healthy"}:
        raise _needs_attention(compose.seat, _failed_undo(last))


def recover_seat(compose: Compose, journal: Journal, order: dict[str, Any], report: Report) -> None:
    """Ends what a killed process left open. Raises ProblemError where going back fails, too, or someone is at work by now."""
    step = journal.open_switch()
    if step is None:
        return
    engine.wait_for_engine(0)  # without one this is not the moment
    clear_verify_keys(compose.seat)
    if compose.seat.current() == step["detail"]["to"]:
        journal.append("committed", generation=step["detail"]["to"], recovered=True)
        return
    if journal.rollback_attempts() >= ATTEMPTS:
        journal.append("needs_attention", because="recovery_loops")
        raise _needs_attention(compose.seat, _too_many_attempts(step))
    require_consent(compose, journal, _with_patience(order), report)
    record = undo_switch(compose, journal, _interrupted(step), report)
    if record["state"] == "needs_attention":
        raise _needs_attention(compose.seat, record["problems"][-1])


def _with_patience(order: dict[str, Any]) -> dict[str, Any]:
    """A check on the GPUs that was cut off with the job may still compute: it ends by itself."""
    wish = order.get("when_busy") or {}
    if wish.get("policy", "defer") != "defer":
        return order
    return {**order, "when_busy": {"policy": "wait", "seconds": CHECK_SECONDS}}


def _interrupted(step: dict[str, Any]) -> dict[str, str]:
    return {
        "code": "interrupted",
        "what": f"run {step['run']} was cut off in the middle of its switch, at {step['at']}",
        "why": "its process was killed or the node lost power; the seat goes back to what ran before",
        "fix": "nothing: the run that found it goes on from there",
    }


def _too_many_attempts(step: dict[str, Any]) -> dict[str, str]:
    return {
        "what": f"{ATTEMPTS} attempts to end the switch of run {step['run']} were cut off themselves",
        "why": "the node restarts or kills the work again and again; going on by itself would never end",
        "fix": "find out why (journalctl -k), then go back or remove the seat",
    }


def _failed_undo(last: dict[str, Any]) -> dict[str, str]:
    return {
        "what": f"going back failed at {last['at']}, run {last['run']}: {last['detail'].get('because')}",
        "why": "no program tries again by itself, and nothing else is done to the seat until a person has looked",
        "fix": "`provision rollback` or `provision remove`; neither home nor token nor host key is lost",
    }


def _needs_attention(seat: Seat, problem: dict[str, str]) -> NeedsAttentionError:
    return NeedsAttentionError(
        "needs_attention",
        f"{seat.name} could not be brought back: {problem['what']}",
        problem["why"],
        f"look at it on the node: docker compose -p {seat.name} ps -a; then {problem['fix']}",
    )
