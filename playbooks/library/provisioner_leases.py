"""Asks the broker of the node, as root: who has which seat until when, an end or more time, the use of GPUs."""

from __future__ import annotations

import json

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.provisioner.admin.ask import answer_requests
from ansible.module_utils.provisioner.jobs.entry import ORDER


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(ORDER)
    order = json.loads(module.params["order"])
    changed = any(request["verb"] not in ("seats", "usage") for request in order["requests"])
    module.exit_json(changed=changed, record=answer_requests(order))


if __name__ == "__main__":
    main()
