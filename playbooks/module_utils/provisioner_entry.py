"""What the modules that start work have in common: an order comes in, the path of a job's file goes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.provisioner_claims import check
from ansible.module_utils.provisioner_host import Fault

# no_log keeps some 20 kB a node out of the node's system log and out of every answer; none of it is secret.
ORDER = {"order": {"type": "json", "required": True, "no_log": True}}


def answer(begin: Callable[[dict[str, Any]], Path]) -> None:
    """`begin` starts a job for the order and returns its file; for a run that may change the node, and no other."""
    module = AnsibleModule(ORDER)
    order = json.loads(module.params["order"])
    try:
        check(order["state_root"], order.get("claim"))
        job = begin(order)
    except Fault as fault:
        module.fail_json(msg=str(fault), record={"state": "failed", "problems": [fault.problem]})
    else:
        module.exit_json(changed=True, job=str(job))
