"""Returns the tokens of seats, in the order of their files, null for one that cannot be read.

For the action plugin `provisioner_access`, which passes none of them on.
"""

from __future__ import annotations

import json
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.provisioner.jobs.entry import ORDER

MOST_BYTES = 513  # of a token: one more than is valid


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(ORDER, supports_check_mode=True)
    paths = json.loads(module.params["order"])["tokens"]
    module.exit_json(changed=False, tokens=[read_token(Path(path)) for path in paths])


def read_token(path: Path) -> str | None:
    """Return the beginning of a file, None when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES).decode(errors="replace")
    except OSError:
        return None


if __name__ == "__main__":
    main()
