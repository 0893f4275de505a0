"""Starts a job for a whole machine: preparing a node or the host of the registry, or garbage collection there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible.module_utils.provisioner.jobs.entry import start_job
from ansible.module_utils.provisioner.jobs.job import start
from ansible.module_utils.provisioner.jobs.node_jobs import NodeJobs
from ansible.module_utils.provisioner.prepare.gc import collect_garbage
from ansible.module_utils.provisioner.prepare.prepare import prepare
from ansible.module_utils.provisioner.prepare.registry import set_up_registry

if TYPE_CHECKING:
    from pathlib import Path

WORK = {"node": prepare, "registry": set_up_registry, "sweep": collect_garbage}


def begin(order: dict[str, Any]) -> Path:
    """Start the job that `what` of the order names, and return its file."""
    work = WORK[order["what"]]
    return start(NodeJobs(order["state_root"]), order["run"], order["what"], lambda job, _: work(order, job))


if __name__ == "__main__":
    start_job(begin)
