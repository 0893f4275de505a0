"""Shows a notice to the users of seats and to those who are logged in to the node, or removes it."""

from __future__ import annotations

import json

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.provisioner.jobs.entry import ORDER
from ansible.module_utils.provisioner.seat.notice import notify_seats


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(ORDER)
    record = notify_seats(json.loads(module.params["order"])["orders"])
    changed = any(seat["state"] == "committed" for seat in record["seats"].values())
    module.exit_json(changed=changed, record=record)


if __name__ == "__main__":
    main()
