"""What the modules that start work have in common: an order comes in, the path of a job's file goes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.jobs.claims import check_claim

# no_log keeps some 20 kB a node out of the node's system log and out of every answer; none of it is secret.
ORDER = {"order": {"type": "json", "required": True, "no_log": True}}


def start_job(begin: Callable[[dict[str, Any]], Path]) -> None:
    """`begin` starts a job for the order and returns its file; for a run that may change the node, and no other."""
    module = AnsibleModule(ORDER)
    order = json.loads(module.params["order"])
    try:
        check_claim(order["state_root"], order.get("claim"))
        job = begin(order)
    except ProblemError as fault:
        module.fail_json(msg=str(fault), record={"state": fault.state, "problems": [fault.problem]})
    else:
        module.exit_json(changed=True, job=str(job))
