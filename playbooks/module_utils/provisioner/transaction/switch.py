"""From the old generation to the new one, or back: a seat ends on one of them, whenever and wherever it is stopped.

The journal says what is about to happen; moving `current` is the one moment after which the new generation is in force.
"""

from __future__ import annotations

import contextlib
from typing import Any

from ansible.module_utils.provisioner.base.files import write_atomic
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.docker import engine
from ansible.module_utils.provisioner.jobs.claims import check_claim
from ansible.module_utils.provisioner.jobs.jobfile import Job
from ansible.module_utils.provisioner.seat.busy import is_running, require_consent
from ansible.module_utils.provisioner.seat.compose import Compose
from ansible.module_utils.provisioner.seat.identity import host_key
from ansible.module_utils.provisioner.seat.journal import Journal
from ansible.module_utils.provisioner.seat.precheck import check_ports
from ansible.module_utils.provisioner.seat.seat import Seat, seat_of
from ansible.module_utils.provisioner.transaction.expected import changed_by_run, check_expected
from ansible.module_utils.provisioner.transaction.recover import check_usable, recover_seat
from ansible.module_utils.provisioner.transaction.result import committed_record
from ansible.module_utils.provisioner.transaction.retention import remove_old_generations
from ansible.module_utils.provisioner.transaction.undo import append_if_possible, problem_of, undo_switch
from ansible.module_utils.provisioner.transaction.verify import verify


def switch(order: dict[str, Any], job: Job, lock: int) -> dict[str, Any]:
    """The record. Raises ProblemError where nothing was touched."""
    seat = seat_of(order)
    compose, journal = Compose(seat, (lock,)), Journal(seat.folder, order["run"])
    check_expected(seat, journal, order)
    check_usable(compose, journal)
    recover_seat(compose, journal, order, job.report)
    if changed_by_run(seat, journal, order["run"]):
        return committed_record(seat)
    _check_ready(seat, order)  # what cannot be had is told before anybody is waited for
    require_consent(compose, journal, order, job.report)
    check_claim(order["state_root"], order.get("claim"))  # to wait for somebody may have taken hours
    old = seat.current()
    record = transact(compose, journal, _check_ready(seat, order), order, job.report)
    if record["state"] == "committed":
        remove_old_generations(seat, {record["generation"], old})
    return record


def _check_ready(seat: Seat, order: dict[str, Any]) -> int:
    """The generation to switch to. Things may have changed since staging, and nothing old has stopped yet."""
    number = seat.staged(order)
    if not number or engine.image(order["image"]["reference"]) is None:
        raise ProblemError(
            "not_staged",
            f"the node does not hold what it is to switch to ({order['image']['tag']})",
            "nothing old is stopped before all that is new has arrived; something removed it since then",
            "run the rollout again",
        )
    check_ports(order["seat"])
    return number


def transact(compose: Compose, journal: Journal, number: int, order: dict[str, Any], report: Report) -> dict[str, Any]:
    seat = compose.seat
    journal.append("switching", to=number, back=_way_back(compose))
    seen: dict[str, Any] = {}
    try:
        report("starting the new containers", phase="switch")
        compose.up(number)
        journal.append("verifying", to=number)
        report("waiting until it is healthy", phase="verify")
        seen = verify(compose, number, order, report)
        seat.commit(number)
    except Exception as error:  # noqa: BLE001  (whatever it was, the seat must go back)
        if seat.current() != number:  # else it was moved, and only the folder could not be synced
            return _undo(compose, journal, number, problem_of(error), report)
    append_if_possible(journal, "committed", generation=number, host_key=host_key(seat))
    return {**committed_record(seat), **seen}


def _undo(compose: Compose, journal: Journal, number: int, problem: dict[str, str], report: Report) -> dict[str, Any]:
    with contextlib.suppress(ProblemError, OSError):  # going back matters more
        write_atomic(compose.seat.generation(number) / "failure.log", compose.logs())
    return undo_switch(compose, journal, problem, report)


def _way_back(compose: Compose) -> int:
    """The current generation; 0, nothing, where its image is gone with its containers.

    Raises ProblemError where they run without it: once stopped, they could not be started again.
    """
    seat, old = compose.seat, compose.seat.current()
    if not old or engine.image(seat.order(old)["image"]["reference"]):
        return old
    if is_running(compose):
        raise _no_way_back(seat, old)
    return 0


def _no_way_back(seat: Seat, old: int) -> ProblemError:
    reference = seat.order(old)["image"]["reference"]
    return ProblemError(
        "no_way_back",
        f"{seat.name} runs generation {old}, whose image was removed from the node by force",
        "if the new generation failed, the old one could not be started again",
        f"bring it back on the node (docker pull {reference}), or take the seat down first: provision remove",
    )
