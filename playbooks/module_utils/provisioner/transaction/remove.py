"""Stop or remove a seat. Home, token and host key stay in either case."""

from __future__ import annotations

import contextlib
from typing import Any

from ansible.module_utils.provisioner.disk.limit import forget_disk
from ansible.module_utils.provisioner.jobs.claims import check_claim
from ansible.module_utils.provisioner.jobs.jobfile import Job
from ansible.module_utils.provisioner.seat.busy import require_consent
from ansible.module_utils.provisioner.seat.compose import Compose
from ansible.module_utils.provisioner.seat.journal import Journal
from ansible.module_utils.provisioner.seat.seat import seat_of, seats_of
from ansible.module_utils.provisioner.transaction.boot import uninstall
from ansible.module_utils.provisioner.transaction.retention import remove_old_generations


def stop(order: dict[str, Any], job: Job, lock: int) -> dict[str, Any]:
    """Remove the containers; generations and ports stay, so that a rollout starts the seat as it was."""
    seat = seat_of(order)
    compose, journal = Compose(seat, (lock,)), Journal(seat.folder, order["run"])
    if not compose.ours():
        return {"state": "unchanged", "generation": seat.current()}
    if order.get("when_busy"):
        require_consent(compose, journal, order, job.report)
    check_claim(order["state_root"], order.get("claim"))  # the job may have waited for the seat's lock
    job.report("removing the containers")
    journal.append("stopping")
    compose.down()
    journal.append("stopped")
    return {"state": "committed", "generation": seat.current()}


def remove(order: dict[str, Any], job: Job, lock: int) -> dict[str, Any]:
    """Remove the containers and all generations with their images."""
    seat = seat_of(order)
    compose, journal = Compose(seat, (lock,)), Journal(seat.folder, order["run"])
    if not (compose.ours() or seat.numbers()):
        return {"state": "unchanged"}
    if order.get("when_busy"):
        require_consent(compose, journal, order, job.report, removes=True)
    check_claim(order["state_root"], order.get("claim"))
    job.report("removing the containers")
    journal.append("removing")
    compose.down()
    seat.clear_current()
    remove_old_generations(seat, set())
    forget_disk(seat)
    journal.append("removed")
    with contextlib.suppress(OSError):  # a damaged seat keeps the boot unit
        if not any(other.numbers() for other in seats_of(order["state_root"])):
            uninstall(order["state_root"])
    return {"state": "committed"}
