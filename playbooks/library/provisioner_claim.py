"""Takes the node for a run or lets it go (`act`: take | release), before and after everything that a run changes."""

from __future__ import annotations

import json
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.provisioner_claims import release, take
from ansible.module_utils.provisioner_entry import ORDER
from ansible.module_utils.provisioner_host import Fault


def act(order: dict[str, Any]) -> None:
    if order["act"] == "take":
        take(order["state_root"], order["claim"], order["breaks"])
    else:
        release(order["state_root"], order["claim"])


def main() -> None:
    module = AnsibleModule(ORDER)
    try:
        act(json.loads(module.params["order"]))
    except Fault as fault:
        module.fail_json(msg=str(fault), problem=fault.problem)
    else:
        module.exit_json(changed=True)


if __name__ == "__main__":
    main()
