"""Starts the job that stops or removes seats (`act`: stop | remove); a stopped seat keeps its generations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible.module_utils.provisioner.jobs.batch import start_batch
from ansible.module_utils.provisioner.jobs.entry import start_job
from ansible.module_utils.provisioner.jobs.job import start
from ansible.module_utils.provisioner.seat.seat import seat_of
from ansible.module_utils.provisioner.transaction.remove import remove, stop

if TYPE_CHECKING:
    from pathlib import Path

ACTS = {"remove": remove, "stop": stop}


def begin(order: dict[str, Any]) -> Path:
    """Start the job of a seat and return its file."""
    act = ACTS[order["act"]]
    return start(seat_of(order), order["run"], order["act"], lambda job, lock: act(order, job, lock))


if __name__ == "__main__":
    start_job(lambda batch: start_batch(batch, "remove", begin))
