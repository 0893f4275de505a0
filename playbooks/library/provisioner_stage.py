"""Starts staging a seat's new generation, or returns this run's job when it is running."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible.module_utils.provisioner.jobs.entry import start_job
from ansible.module_utils.provisioner.jobs.job import start
from ansible.module_utils.provisioner.seat.seat import seat_of
from ansible.module_utils.provisioner.transaction.boot import own_code
from ansible.module_utils.provisioner.transaction.stage import stage

if TYPE_CHECKING:
    from pathlib import Path


def begin(order: dict[str, Any]) -> Path:
    """Start the job and return its file."""
    code = own_code()
    return start(seat_of(order), order["run"], "stage", lambda job, lock: stage(order, job, lock, code))


if __name__ == "__main__":
    start_job(begin)
