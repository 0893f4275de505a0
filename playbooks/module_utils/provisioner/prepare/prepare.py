"""Making a bare node ready for seats: look, bring the first thing that it lacks, look again, until nothing is left."""

from __future__ import annotations

import os
from typing import Any

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.gpu.nvidia import nvidia_facts
from ansible.module_utils.provisioner.jobs.jobfile import Job
from ansible.module_utils.provisioner.prepare.actions import ACTIONS
from ansible.module_utils.provisioner.prepare.needs import Need, find_needs
from ansible.module_utils.provisioner.prepare.observe import observe
from ansible.module_utils.provisioner.prepare.registry_check import check_registry


def survey(order: dict[str, Any]) -> dict[str, Any]:
    """The record of what would be done; changes nothing. Raises ProblemError."""
    _require_root()
    lacking = _lacking(order)
    problems = [] if lacking else _unfixable(order)
    state = "lacking" if lacking else "failed" if problems else "ready"
    return _record(state, [need for need in lacking if not need.deferred], lacking, problems)


def prepare(order: dict[str, Any], job: Job) -> dict[str, Any]:
    """The record of what was done. Raises ProblemError with what is in the way."""
    _require_root()
    done: list[Need] = []
    try:
        while need := next((need for need in _lacking(order) if not need.deferred), None):
            if need in done:
                raise _no_effect(need)
            job.report(need.words)
            ACTIONS[need.act](need, order, job)
            done.append(need)
    except ProblemError as fault:
        return _record("failed", done, [], [fault.problem])
    return _final_record(order, done)


def _final_record(order: dict[str, Any], done: list[Need]) -> dict[str, Any]:
    left, problems = _lacking(order), _unfixable(order)
    state = "failed" if problems else "deferred" if left else "prepared" if done else "ready"
    return _record(state, done, left, problems)


def _record(state: str, changes: list[Need], lacking: list[Need], problems: list[dict[str, str]]) -> dict[str, Any]:
    pending = [need.words for need in lacking if need.deferred]
    return {"state": state, "changes": [need.words for need in changes], "pending": pending, "problems": problems}


def _lacking(order: dict[str, Any]) -> list[Need]:
    return find_needs(observe(order), may_restart=order["restart_engine"])


def _unfixable(order: dict[str, Any]) -> list[dict[str, str]]:
    """What no package can mend: a driver that does not answer, a registry that the node does not reach."""
    problems: list[dict[str, str]] = nvidia_facts()[2]
    return [*problems, *(check_registry(order["registry"]) if order["reach"] else [])]


def _require_root() -> None:
    if os.geteuid() != 0:
        raise ProblemError(
            "not_root",
            "Ansible is not root on the node",
            "packages, services and the engine's configuration are root's",
            "let Ansible become root: ansible_become: true in the inventory, and an account that may sudo",
        )


def _no_effect(need: Need) -> ProblemError:
    return ProblemError(
        "no_effect",
        f"it was done, and is lacking still: {need.words}",
        "doing it again would end the same",
        "look on the node what undoes it",
    )
