"""Back to a generation that the node keeps: without the network, and by the same transaction as the way forward.

Where it fails, the seat goes forward again to what ran before it. What it came from stays, so one may go there again.
"""

from __future__ import annotations

from typing import Any

from ansible.module_utils.provisioner.jobs.claims import check_claim
from ansible.module_utils.provisioner.jobs.jobfile import Job
from ansible.module_utils.provisioner.seat.busy import require_consent
from ansible.module_utils.provisioner.seat.compose import Compose
from ansible.module_utils.provisioner.seat.journal import Journal
from ansible.module_utils.provisioner.seat.precheck import check_ports
from ansible.module_utils.provisioner.seat.rollback_target import rollback_target
from ansible.module_utils.provisioner.seat.seat import seat_of
from ansible.module_utils.provisioner.transaction.expected import changed_by_run, check_expected
from ansible.module_utils.provisioner.transaction.recover import recover_seat
from ansible.module_utils.provisioner.transaction.result import committed_record
from ansible.module_utils.provisioner.transaction.switch import transact


def roll_back(order: dict[str, Any], job: Job, lock: int) -> dict[str, Any]:
    """The record. `to` of the order is a generation, 0 the one before. Raises ProblemError where nothing was touched."""
    seat = seat_of(order)
    compose, journal = Compose(seat, (lock,)), Journal(seat.folder, order["run"])
    check_expected(seat, journal, order)
    recover_seat(compose, journal, order, job.report)
    if changed_by_run(seat, journal, order["run"]):
        return committed_record(seat)
    if order["to"] and order["to"] == seat.current():
        return {**committed_record(seat), "state": "unchanged"}
    _check_ready(compose, order["to"])  # what cannot be had is told before anybody is waited for
    require_consent(compose, journal, order, job.report)
    check_claim(order["state_root"], order.get("claim"))  # to wait for somebody may have taken hours
    number = _check_ready(compose, order["to"])
    return transact(compose, journal, number, seat.order(number), job.report)


def _check_ready(compose: Compose, wanted: int) -> int:
    """The generation to go back to, proved as far as it can be while all goes on."""
    number = rollback_target(compose.seat, wanted)
    compose.check(number)
    check_ports(compose.seat.order(number)["seat"])
    return number
