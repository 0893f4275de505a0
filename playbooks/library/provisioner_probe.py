"""Returns all facts of a node, and reasons for facts that are absent. Changes nothing."""

from __future__ import annotations

import json
import time
from typing import Any, Sequence

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.provisioner.base.packing import pack
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.docker.machine import engine_facts, image_digests, machine_facts
from ansible.module_utils.provisioner.gpu.cdi import toolkit_facts
from ansible.module_utils.provisioner.gpu.nvidia import nvidia_facts
from ansible.module_utils.provisioner.gpu.processes import with_container_names
from ansible.module_utils.provisioner.gpu.toolkit import toolkit_versions
from ansible.module_utils.provisioner.jobs.claims import last_claim, read_claims
from ansible.module_utils.provisioner.jobs.entry import ORDER
from ansible.module_utils.provisioner.seat.account_lookup import look_up_accounts
from ansible.module_utils.provisioner.seat.facts import attention_problem, kept_images, pack_files, seat_facts
from ansible.module_utils.provisioner.self_service.facts import published_images, self_service_facts


def node_facts(state_root: str, accounts: Sequence[str]) -> dict[str, Any]:
    """Return facts, `absent_because` and `problems` of this node; `accounts` are names to look up."""
    machine = machine_facts()
    nvidia, absent, problems = nvidia_facts()
    engine, info, absent_of_engine = engine_facts()
    toolkit = toolkit_facts(info, nvidia["gpus"])
    versions, absent_of_toolkit = toolkit_versions()
    gpus = with_container_names(nvidia["gpus"])
    seats = seat_facts(state_root, gpus)
    claims, damaged = claim_facts(state_root)
    found, unknown = look_up_accounts(accounts)
    absent.update(absent_of_engine)
    absent.update(absent_of_toolkit)
    if toolkit["toolkit_mode"] is None:
        absent["toolkit_mode"] = "NVIDIA's container toolkit is not installed: there is neither its hook nor a CDI file"
    if unknown:
        absent["accounts"] = unknown
    if not machine["addresses"]:
        absent["addresses"] = "no external interface has an IPv4 address"
    return {
        **machine,
        **nvidia,
        "gpus": gpus,
        **toolkit,
        **versions,
        "engine": engine,
        **pack_files(seats),
        "accounts": pack(json.dumps(found)),
        **claims,
        "images": image_digests() if engine else [],
        "kept": sorted({*kept_images(state_root), *published_images(state_root)}),
        "self_service": self_service_facts(state_root),
        "absent_because": absent,
        "problems": problems + damaged + [problem for problem in map(attention_problem, seats) if problem],
    }


def claim_facts(state_root: str) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Return the facts of the claims, and a problem when they cannot be read."""
    try:
        held = read_claims(state_root)
        return {"claims": held.active, "fence": held.fences.highest, "last": last_claim(state_root)}, []
    except ProblemError as fault:
        return {}, [fault.problem]


def main() -> None:
    """Run as an Ansible module."""
    clock = time.time()
    module = AnsibleModule(ORDER, supports_check_mode=True)
    order = json.loads(module.params["order"])
    module.exit_json(changed=False, clock=clock, facts=node_facts(order["state_root"], order["accounts"]))


if __name__ == "__main__":
    main()
