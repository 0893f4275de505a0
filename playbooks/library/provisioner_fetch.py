"""Starts the job that fetches images before a rollout, or returns this run's job when it is running."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible.module_utils.provisioner.fetch.fetch import fetch
from ansible.module_utils.provisioner.jobs.entry import start_job
from ansible.module_utils.provisioner.jobs.job import start
from ansible.module_utils.provisioner.jobs.node_jobs import NodeJobs

if TYPE_CHECKING:
    from pathlib import Path


def begin(order: dict[str, Any]) -> Path:
    """Start the job and return its file."""
    jobs = NodeJobs(order["state_root"], "fetch")
    return start(jobs, order["run"], "fetch", lambda job, _: fetch(order, job))


if __name__ == "__main__":
    start_job(begin)
