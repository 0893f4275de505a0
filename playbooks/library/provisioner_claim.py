"""Claims the node for a run, or releases the claim (`act`: take | release), before and after a run's changes."""

from __future__ import annotations

import json
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.provisioner.base.problem import ProblemError, as_fault
from ansible.module_utils.provisioner.jobs.claims import release_claim, take_claim
from ansible.module_utils.provisioner.jobs.entry import ORDER


def act(order: dict[str, Any]) -> None:
    """Take or release the claim of the order."""
    if order["act"] == "take":
        take_claim(order["state_root"], order["claim"], order["breaks"])
    else:
        release_claim(order["state_root"], order["claim"])


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(ORDER)
    try:
        act(json.loads(module.params["order"]))
    except (ProblemError, OSError) as error:
        fault = as_fault(error)
        module.fail_json(msg=str(fault), problem=fault.problem)
    else:
        module.exit_json(changed=True)


if __name__ == "__main__":
    main()
