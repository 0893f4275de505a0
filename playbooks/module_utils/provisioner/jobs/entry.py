"""Entry points of the Ansible modules that get orders: most start a job, and return the path of the job file.

The order of a job of seats is a batch of their orders: see `start_batch`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.provisioner.base.problem import ProblemError, as_fault
from ansible.module_utils.provisioner.jobs.claims import check_claim
from ansible.module_utils.provisioner.jobs.jobfile import follow, shown

# An order holds no secret; no_log keeps its 20 kB and more out of syslog and of every result.
ORDER = {"order": {"type": "json", "required": True, "no_log": True}}
FIRST_LOOK = {"first_look": {"type": "float", "default": 0}}


def answer_orders(carry_out: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
    """Carry out the orders of a node at once, without a job. `carry_out` returns the record of the node."""
    module = AnsibleModule(ORDER)
    record = carry_out(json.loads(module.params["order"])["orders"])
    changed = any(seat["state"] == "committed" for seat in record["seats"].values())
    module.exit_json(changed=changed, record=record)


def start_job(begin: Callable[[dict[str, Any]], Path]) -> None:
    """Check the claim of the order, then call `begin`, which starts the job and returns its file.

    The job is then looked at for up to `first_look` seconds: most end within them, and need no second task.
    """
    module = AnsibleModule({**ORDER, **FIRST_LOOK})
    order = json.loads(module.params["order"])
    try:
        check_claim(order["state_root"], order.get("claim"))
        job = begin(order)
    except (ProblemError, OSError) as error:
        fault = as_fault(error)
        module.fail_json(msg=str(fault), record={"state": fault.state, "problems": [fault.problem]})
    else:
        module.exit_json(changed=True, job=str(job), **shown(follow(job, module.params["first_look"])))
