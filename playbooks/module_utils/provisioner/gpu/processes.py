"""The container of each process that uses a GPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ansible.module_utils.provisioner.base.files import read
from ansible.module_utils.provisioner.base.problem import ProblemError, printable
from ansible.module_utils.provisioner.docker.engine import SEAT_LABEL, get

ID = re.compile(r"[0-9a-f]{64}")
SHORT = 12  # characters, as the engine itself shortens an ID


def container_id(pid: int) -> str | None:
    """Return the container ID of a process, from its control groups (…/docker/ID, …/docker-ID.scope), or None."""
    nested = [ID.findall(line) for line in read(Path(f"/proc/{pid}/cgroup")).splitlines()]
    deepest = max(nested, key=len, default=[])  # with nested containers, not every hierarchy has all of them
    return deepest[-1] if deepest else None


def with_container_names(gpus: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the GPUs with the containers of their processes by name, or by short ID when the engine has no name.

    A process in a container has `seat`, too: the name of the container's seat, None for a container of no seat. The key
    is missing when the engine does not answer.
    """
    ids = {process["container"] for gpu in gpus for process in gpu.get("processes") or ()} - {None}
    containers = _containers() if ids else None
    return [_with_named_processes(gpu, containers) for gpu in gpus]


def _with_named_processes(gpu: dict[str, Any], containers: dict[str, Any] | None) -> dict[str, Any]:
    processes = [_named(process, containers) for process in gpu.get("processes") or ()]
    return {**gpu, "processes": processes} if processes else gpu


def _named(process: dict[str, Any], containers: dict[str, Any] | None) -> dict[str, Any]:
    number = process["container"]
    if number is None:
        return process
    if containers is None:
        return {**process, "container": number[:SHORT]}
    found = containers.get(number, {})
    name = printable(found["Names"][0].lstrip("/")) if found.get("Names") else number[:SHORT]
    return {**process, "container": name, "seat": (found.get("Labels") or {}).get(SEAT_LABEL)}


def _containers() -> dict[str, Any] | None:
    """Return the engine's running containers by ID, None when it does not answer."""
    try:
        return {container["Id"]: container for container in get("/containers/json") or []}
    except ProblemError:
        return None
