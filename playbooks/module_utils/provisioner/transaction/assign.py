"""Set the public keys of a seat, and whether its GPUs are shared, while it runs: sshd reads the keys at each login."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.provisioner.jobs.claims import check_claim
from ansible.module_utils.provisioner.jobs.jobfile import Job
from ansible.module_utils.provisioner.seat.busy import check_gpus_free
from ansible.module_utils.provisioner.transaction.expected import begin, committed_record


def assign(order: dict[str, Any], job: Job, lock: int) -> dict[str, Any]:
    """Set them and return the record. Raises ProblemError when nothing was changed."""
    compose, _, is_done = begin(order, job, lock)
    check_claim(order["state_root"], order.get("claim"))  # the job may have waited for the seat's lock
    check_gpus_free(compose.seat, order)
    if not is_done:
        compose.seat.assign(order["seat"]["authorized_keys"], shared=order["seat"]["shared"])
    return committed_record(compose.seat)
