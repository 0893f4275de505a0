"""Starts the job that stages the new generations of seats, or returns this run's job when it is running."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ansible.module_utils.provisioner.jobs.batch import start_batch
from ansible.module_utils.provisioner.jobs.entry import start_job
from ansible.module_utils.provisioner.jobs.job import start
from ansible.module_utils.provisioner.seat.seat import seat_of
from ansible.module_utils.provisioner.transaction.boot import own_code
from ansible.module_utils.provisioner.transaction.stage import stage

if TYPE_CHECKING:
    from pathlib import Path


def begin(code: dict[str, str], order: dict[str, Any]) -> Path:
    """Start the job of a seat and return its file. `code`: see `own_code`."""
    return start(seat_of(order), order["run"], "stage", lambda job, lock: stage(order, job, lock, code))


if __name__ == "__main__":
    # The code is read here: Ansible removes its archive while the job runs.
    begin_seat = partial(begin, own_code())
    start_job(lambda batch: start_batch(batch, "stage", begin_seat))
