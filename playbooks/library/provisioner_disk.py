"""Sets the limits of what seats use on the disk. It makes no generation and restarts nothing."""

from __future__ import annotations

import json

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.provisioner.disk.limit import limit_seats
from ansible.module_utils.provisioner.jobs.entry import ORDER


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(ORDER)
    record = limit_seats(json.loads(module.params["order"])["orders"])
    changed = any(seat["state"] == "committed" for seat in record["seats"].values())
    module.exit_json(changed=changed, record=record)


if __name__ == "__main__":
    main()
