"""Prepare a bare node for seats: observe it, meet its first need, and repeat until none is left."""

from __future__ import annotations

import os
from typing import Any

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.gpu.nvidia import nvidia_facts
from ansible.module_utils.provisioner.jobs.claims import check_unclaimed
from ansible.module_utils.provisioner.jobs.jobfile import Job
from ansible.module_utils.provisioner.prepare.actions import ACTIONS
from ansible.module_utils.provisioner.prepare.needs import Need, find_needs
from ansible.module_utils.provisioner.prepare.observe import observe
from ansible.module_utils.provisioner.prepare.registry_check import check_registry


def survey(order: dict[str, Any]) -> dict[str, Any]:
    """Return the record of what would be done; changes nothing. Raises ProblemError."""
    _require_root()
    needed = _needs(order)
    problems = [] if needed else _unfixable(order)
    state = "lacking" if needed else "failed" if problems else "ready"
    return _record(state, [need for need in needed if not need.deferred], needed, problems)


def prepare(order: dict[str, Any], job: Job) -> dict[str, Any]:
    """Prepare the node and return the record of what was done. Raises ProblemError."""
    _require_root()
    done: list[Need] = []
    try:
        while need := next((need for need in _needs(order) if _is_next(need, done)), None):
            if need in done:
                raise _no_effect(need)
            check_unclaimed(order["state_root"])  # each time: a step may have waited for apt's lock
            job.report(need.description)
            ACTIONS[need.action](need, order, job)
            done.append(need)
    except ProblemError as fault:
        return _record("failed", done, [], [fault.problem])
    return _final_record(order, done)


def _is_next(need: Need, done: list[Need]) -> bool:
    """Return whether a need is to be met. A package source was found once in this run; its packages come next."""
    return not need.deferred and not (need.action == "source" and need in done)


def _final_record(order: dict[str, Any], done: list[Need]) -> dict[str, Any]:
    left, problems = _needs(order), _unfixable(order)
    state = "failed" if problems else "deferred" if left else "prepared" if done else "ready"
    return _record(state, done, left, problems)


def _record(state: str, changes: list[Need], needed: list[Need], problems: list[dict[str, str]]) -> dict[str, Any]:
    pending = [need.description for need in needed if need.deferred]
    return {"state": state, "changes": [need.description for need in changes], "pending": pending, "problems": problems}


def _needs(order: dict[str, Any]) -> list[Need]:
    return find_needs(observe(order), may_restart=order["restart_engine"])


def _unfixable(order: dict[str, Any]) -> list[dict[str, str]]:
    """Return problems that no package solves: a failing driver, a registry that the node does not reach."""
    problems: list[dict[str, str]] = nvidia_facts()[2]
    return [*problems, *(check_registry(order["registry"]) if order["reach"] else [])]


def _require_root() -> None:
    if os.geteuid() != 0:
        raise ProblemError(
            "not_root",
            "Ansible is not root on the node",
            "only root can change packages, services and the engine's configuration",
            "let Ansible become root: ansible_become: true in the inventory, and an account with sudo",
        )


def _no_effect(need: Need) -> ProblemError:
    return ProblemError(
        "no_effect",
        f"the step reported success but had no effect: {need.description}",
        "repeating it would have the same result",
        "find out on the node what reverts it",
    )
