"""Starts the job that switches seats to their staged generations, or returns this run's job when it is running.

An order with `act` stop stops a seat that is no longer in the lab. An order with `act` assign changes the public keys
of a running seat, or whether its GPUs are shared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible.module_utils.provisioner.jobs.batch import start_batch
from ansible.module_utils.provisioner.jobs.entry import start_job
from ansible.module_utils.provisioner.jobs.job import start, start_once
from ansible.module_utils.provisioner.seat.seat import seat_of
from ansible.module_utils.provisioner.transaction.assign import assign
from ansible.module_utils.provisioner.transaction.remove import stop
from ansible.module_utils.provisioner.transaction.switch import switch

if TYPE_CHECKING:
    from pathlib import Path


def begin(order: dict[str, Any]) -> Path:
    """Start the job of a seat and return its file."""
    seat, run = seat_of(order), order["run"]
    if order.get("act") == "stop":
        return start(seat, run, "stop", lambda job, lock: stop(order, job, lock))
    if order.get("act") == "assign":
        return start(seat, run, "assign", lambda job, lock: assign(order, job, lock))
    return start_once(seat, run, "switch", lambda job, lock: switch(order, job, lock))


if __name__ == "__main__":
    start_job(lambda batch: start_batch(batch, "switch", begin))
