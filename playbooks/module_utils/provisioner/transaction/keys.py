"""Replace the public keys of a seat while it runs: sshd reads them at each login."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.provisioner.jobs.claims import check_claim
from ansible.module_utils.provisioner.jobs.jobfile import Job
from ansible.module_utils.provisioner.transaction.expected import begin, committed_record


def set_keys(order: dict[str, Any], job: Job, lock: int) -> dict[str, Any]:
    """Replace the keys and return the record. Raises ProblemError when nothing was changed."""
    compose, _, is_done = begin(order, job, lock)
    check_claim(order["state_root"], order.get("claim"))  # the job may have waited for the seat's lock
    if not is_done:
        compose.seat.set_keys(order["keys"])
    return committed_record(compose.seat)
