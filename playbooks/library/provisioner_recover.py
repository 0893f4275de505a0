"""Starts ending what is open on the node's seats, or finds that this run's job is at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible.module_utils.provisioner_entry import answer
from ansible.module_utils.provisioner_job import start
from ansible.module_utils.provisioner_recovering import Node, recover_all
from ansible.module_utils.provisioner_seat import check_run

if TYPE_CHECKING:
    from pathlib import Path


def begin(order: dict[str, Any]) -> Path:
    check_run(order)
    node = Node(order["state_root"])
    return start(node, order["run"], "recover", lambda job, _: recover_all(order, job.tell))


if __name__ == "__main__":
    answer(begin)
