"""Starts a rollback to a generation on the node, or returns this run's job when it runs or has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible.module_utils.provisioner.jobs.claims import with_release
from ansible.module_utils.provisioner.jobs.entry import start_job
from ansible.module_utils.provisioner.jobs.job import start_once
from ansible.module_utils.provisioner.seat.seat import seat_of
from ansible.module_utils.provisioner.transaction.rollback import roll_back

if TYPE_CHECKING:
    from pathlib import Path


def begin(order: dict[str, Any]) -> Path:
    """Start the job and return its file."""
    return start_once(
        seat_of(order), order["run"], "rollback", lambda job, lock: with_release(order, roll_back(order, job, lock))
    )


if __name__ == "__main__":
    start_job(begin)
