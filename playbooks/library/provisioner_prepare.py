"""Starts work on a whole machine: making it ready for seats, or all that the lab's registry needs on its host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible.module_utils.provisioner_entry import answer
from ansible.module_utils.provisioner_job import start
from ansible.module_utils.provisioner_preparing import Desk, prepare
from ansible.module_utils.provisioner_registry import set_up
from ansible.module_utils.provisioner_sweeping import sweep

if TYPE_CHECKING:
    from pathlib import Path

WORK = {"node": prepare, "registry": set_up, "sweep": sweep}


def begin(order: dict[str, Any]) -> Path:
    work = WORK[order["what"]]
    return start(Desk(order["state_root"]), order["run"], order["what"], lambda job, _: work(order, job))


if __name__ == "__main__":
    answer(begin)
