"""Starts the job that stops or removes a seat (`act`: stop | remove); a stopped seat keeps its generations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible.module_utils.provisioner.jobs.claims import with_release
from ansible.module_utils.provisioner.jobs.entry import start_job
from ansible.module_utils.provisioner.jobs.job import start
from ansible.module_utils.provisioner.seat.seat import seat_of
from ansible.module_utils.provisioner.transaction.remove import remove, stop

if TYPE_CHECKING:
    from pathlib import Path

ACTS = {"remove": remove, "stop": stop}


def begin(order: dict[str, Any]) -> Path:
    """Start the job and return its file."""
    act = ACTS[order["act"]]
    return start(
        seat_of(order), order["run"], order["act"], lambda job, lock: with_release(order, act(order, job, lock))
    )


if __name__ == "__main__":
    start_job(begin)
