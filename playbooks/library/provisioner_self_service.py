"""Starts the job that publishes self-service on a node and runs its broker, or removes it (`act`: publish | remove)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ansible.module_utils.provisioner.jobs.entry import start_job
from ansible.module_utils.provisioner.jobs.job import start
from ansible.module_utils.provisioner.jobs.node_jobs import NodeJobs
from ansible.module_utils.provisioner.self_service.publish import publish
from ansible.module_utils.provisioner.self_service.removal import remove
from ansible.module_utils.provisioner.transaction.boot import own_code

if TYPE_CHECKING:
    from pathlib import Path


def begin(code: dict[str, str], order: dict[str, Any]) -> Path:
    """Start the job and return its file. `code`: see `own_code`."""
    jobs = NodeJobs(order["state_root"], "self_service")
    if order["act"] == "remove":
        return start(jobs, order["run"], "remove", lambda job, _: remove(order, job))
    return start(jobs, order["run"], "publish", lambda job, _: publish(order, job, code))


if __name__ == "__main__":
    # The code is read here: Ansible removes its archive while the job runs.
    start_job(partial(begin, own_code()))
