"""Starts the way back to a generation that the node keeps, or finds that this run's job is at it, or has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible.module_utils.provisioner_claims import released
from ansible.module_utils.provisioner_entry import answer
from ansible.module_utils.provisioner_job import start_once
from ansible.module_utils.provisioner_returning import roll_back
from ansible.module_utils.provisioner_seat import seat_of

if TYPE_CHECKING:
    from pathlib import Path


def begin(order: dict[str, Any]) -> Path:
    return start_once(
        seat_of(order), order["run"], "rollback", lambda job, lock: released(order, roll_back(order, job, lock))
    )


if __name__ == "__main__":
    answer(begin)
