"""Returns the progress of a job when it has ended, else within `patience` seconds (see `follow`)."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.provisioner.jobs.jobfile import follow, shown


def main() -> None:
    """Run as an Ansible module."""
    arguments = {"job": {"type": "path", "required": True}, "patience": {"type": "float", "default": 5}}
    module = AnsibleModule(arguments, supports_check_mode=True)
    job = follow(Path(module.params["job"]), module.params["patience"])
    module.exit_json(changed=False, **shown(job))


if __name__ == "__main__":
    main()
