"""Starts the job that returns seats to generations on the node, or returns this run's job when it is running."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible.module_utils.provisioner.jobs.batch import start_batch
from ansible.module_utils.provisioner.jobs.entry import start_job
from ansible.module_utils.provisioner.jobs.job import start_once
from ansible.module_utils.provisioner.seat.seat import seat_of
from ansible.module_utils.provisioner.transaction.rollback import roll_back

if TYPE_CHECKING:
    from pathlib import Path


def begin(order: dict[str, Any]) -> Path:
    """Start the job of a seat and return its file."""
    return start_once(seat_of(order), order["run"], "rollback", lambda job, lock: roll_back(order, job, lock))


if __name__ == "__main__":
    start_job(lambda batch: start_batch(batch, "rollback", begin))
