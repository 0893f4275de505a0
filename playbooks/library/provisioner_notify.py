"""Shows a notice to the users of a seat and to those who are logged in to the node, or removes it."""

from __future__ import annotations

import json

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.provisioner.base.problem import ProblemError, as_fault
from ansible.module_utils.provisioner.jobs.entry import ORDER
from ansible.module_utils.provisioner.seat.notice import notify
from ansible.module_utils.provisioner.seat.seat import seat_of


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(ORDER)
    order = json.loads(module.params["order"])
    try:
        record = notify(seat_of(order), order["text"])
    except (ProblemError, OSError) as error:
        fault = as_fault(error)
        module.fail_json(msg=str(fault), record={"state": "failed", "problems": [fault.problem]})
    else:
        module.exit_json(changed=record["state"] == "committed", record=record)


if __name__ == "__main__":
    main()
