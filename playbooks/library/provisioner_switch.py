"""Starts the switch to the staged generation, or finds that this run's job is at it, or has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible.module_utils.provisioner_claims import released
from ansible.module_utils.provisioner_entry import answer
from ansible.module_utils.provisioner_job import start
from ansible.module_utils.provisioner_jobfile import job_path, read_job
from ansible.module_utils.provisioner_seat import seat_of
from ansible.module_utils.provisioner_switching import switch

if TYPE_CHECKING:
    from pathlib import Path


def begin(order: dict[str, Any]) -> Path:
    """A run switches a seat once: whoever asks again is told how it ended, also where it ended where it began."""
    seat, run = seat_of(order), order["run"]
    path = job_path(seat, run, "switch")
    if (read_job(path) or {}).get("finished"):
        return path
    return start(seat, run, "switch", lambda job, lock: released(order, switch(order, job, lock)))


if __name__ == "__main__":
    answer(begin)
