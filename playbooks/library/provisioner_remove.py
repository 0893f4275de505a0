"""Starts taking a seat down: `act` of the order says whether it can come back as it was (stop) or not (remove)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible.module_utils.provisioner_claims import released
from ansible.module_utils.provisioner_entry import answer
from ansible.module_utils.provisioner_job import start
from ansible.module_utils.provisioner_removing import remove, stop
from ansible.module_utils.provisioner_seat import seat_of

if TYPE_CHECKING:
    from pathlib import Path

ACTS = {"remove": remove, "stop": stop}


def begin(order: dict[str, Any]) -> Path:
    act = ACTS[order["act"]]
    return start(seat_of(order), order["run"], order["act"], lambda job, lock: released(order, act(order, job, lock)))


if __name__ == "__main__":
    answer(begin)
