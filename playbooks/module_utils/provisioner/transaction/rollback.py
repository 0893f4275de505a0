"""Rollback to a generation that is on the node: without the network, by the same transaction as a switch.

When it fails, the seat returns to the generation that ran before. No generation is removed.
"""

from __future__ import annotations

from typing import Any

from ansible.module_utils.provisioner.jobs.jobfile import Job
from ansible.module_utils.provisioner.mount.check import check_mounts
from ansible.module_utils.provisioner.seat.busy import check_gpus_free, require_consent
from ansible.module_utils.provisioner.seat.compose import Compose
from ansible.module_utils.provisioner.seat.journal import Journal
from ansible.module_utils.provisioner.seat.precheck import check_ports
from ansible.module_utils.provisioner.seat.rollback_target import rollback_target
from ansible.module_utils.provisioner.seat.seat import seat_of
from ansible.module_utils.provisioner.transaction.expected import changed_by_run, check_expected, committed_record
from ansible.module_utils.provisioner.transaction.recover import recover_seat
from ansible.module_utils.provisioner.transaction.switch import transact


def roll_back(order: dict[str, Any], job: Job, lock: int) -> dict[str, Any]:
    """Switch to generation `to` of the order (0: the one before the current one) and return the record.

    Raises ProblemError when nothing was changed.
    """
    seat = seat_of(order)
    compose, journal = Compose(seat, (lock,)), Journal(seat.folder, order["run"])
    check_expected(seat, journal, order)
    compose.check_ours()
    recover_seat(compose, journal, order, job.report)
    if changed_by_run(seat, journal, order["run"]):
        return committed_record(seat)
    if order["to"] and order["to"] == seat.current():
        return {**committed_record(seat), "state": "unchanged"}
    _check_ready(compose, order)  # fail before waiting for users of the GPUs
    require_consent(compose, journal, order, job.report)
    number = _check_ready(compose, order)
    return transact(compose, journal, number, seat.order(number), job.report)


def _check_ready(compose: Compose, order: dict[str, Any]) -> int:
    """Return the generation to go back to, checked as far as possible while the seat runs."""
    number = rollback_target(compose.seat, order["to"])
    compose.seat.inherit(number)
    kept = compose.seat.order(number)
    compose.check(number)
    check_gpus_free(compose.seat, {**kept, "state_root": order["state_root"]})
    check_ports(kept["seat"])
    check_mounts(kept)
    return number
