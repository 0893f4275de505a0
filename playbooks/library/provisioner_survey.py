"""Returns what a node, or the host of the registry, needs to be prepared. Changes nothing."""

from __future__ import annotations

import json

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.jobs.entry import ORDER
from ansible.module_utils.provisioner.prepare.prepare import survey as survey_node
from ansible.module_utils.provisioner.prepare.registry import survey as survey_registry

SURVEYS = {"node": survey_node, "registry": survey_registry}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(ORDER, supports_check_mode=True)
    order = json.loads(module.params["order"])
    try:
        record = SURVEYS[order["what"]](order)
    except ProblemError as fault:
        record = {"state": "failed", "problems": [fault.problem]}
    module.exit_json(changed=False, record=record)


if __name__ == "__main__":
    main()
