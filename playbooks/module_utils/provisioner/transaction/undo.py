"""Undo a switch that failed or was interrupted: start the generation before it."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.docker import engine
from ansible.module_utils.provisioner.jobs.job import problem_of
from ansible.module_utils.provisioner.mount.check import wait_for_mounts
from ansible.module_utils.provisioner.seat.compose import Compose
from ansible.module_utils.provisioner.seat.journal import Journal
from ansible.module_utils.provisioner.seat.precheck import wait_for_addresses
from ansible.module_utils.provisioner.transaction.verify import clear_verify_keys, wait_despite_home

TRIES = 2  # of starting the generation before
ENGINE_SECONDS = 60
MOUNT_SECONDS = 60  # it was there before the switch
ADDRESS_SECONDS = 600  # time to plug a cable in again; without it the seat cannot be reached in any case


def undo_switch(
    compose: Compose, journal: Journal, old: int, problem: dict[str, str], report: Report
) -> dict[str, Any]:
    """Go back to generation `old` (0: none) because of `problem`; return the record (rolled_back or needs_attention).

    Nothing but containers that do not start prevents it: not a disk that is full or read-only.
    """
    with contextlib.suppress(OSError):  # the next contact clears them
        clear_verify_keys(compose.seat)
    append_if_possible(journal, "rolling_back", to=old, because=problem["code"])
    report("starting the previous generation", phase="switch")
    failure = problem
    for _ in range(TRIES):
        try:
            noticed = _restore(compose, old, report)
        except Exception as error:  # noqa: BLE001  (reported below as needs_attention)
            failure = problem_of(error)
        else:
            detail = {"generation": old, "because": problem["code"], **home_detail(noticed)}
            append_if_possible(journal, "rolled_back", **detail)
            return {"state": "rolled_back", "generation": old, "problems": [problem, *noticed]}
    append_if_possible(journal, "needs_attention", because=failure["code"])
    return {"state": "needs_attention", "generation": old, "problems": [problem, failure]}


def _restore(compose: Compose, old: int, report: Report) -> list[dict[str, str]]:
    """Start a generation again (0: none) and return problems that are not the node's."""
    engine.wait_for_engine(ENGINE_SECONDS)
    if not old:
        compose.down()
        return []
    order = compose.seat.order(old)
    wait_for_addresses(order["seat"], ADDRESS_SECONDS)
    wait_for_mounts(order, time.monotonic() + MOUNT_SECONDS, report)
    compose.up(old)
    return wait_despite_home(compose, old, order, report)


def home_detail(noticed: list[dict[str, str]]) -> dict[str, Any]:
    """Return what the last line of a transaction records of a fault of the home, so that facts can name it later."""
    faults = [problem for problem in noticed if problem["code"] == "home_fault"]
    return {"home_fault": faults[0]} if faults else {}


def append_if_possible(journal: Journal, state: str, **detail: Any) -> None:
    """Append a line to the journal; when that fails, the transaction stays open and the next contact ends it."""
    with contextlib.suppress(ProblemError):
        journal.append(state, **detail)
