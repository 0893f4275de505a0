"""The container of each process that uses a GPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ansible.module_utils.provisioner.base.files import read
from ansible.module_utils.provisioner.base.problem import ProblemError, printable
from ansible.module_utils.provisioner.docker.engine import get

ID = re.compile(r"[0-9a-f]{64}")
SHORT = 12  # characters, as the engine itself shortens an ID


def container_id(pid: int) -> str | None:
    """Return the container ID of a process, from its control groups (…/docker/ID, …/docker-ID.scope), or None."""
    nested = [ID.findall(line) for line in read(Path(f"/proc/{pid}/cgroup")).splitlines()]
    deepest = max(nested, key=len, default=[])  # with nested containers, not every hierarchy has all of them
    return deepest[-1] if deepest else None


def with_container_names(gpus: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the GPUs with the containers of their processes by name, or by short ID when the engine has no name."""
    ids = {process["container"] for gpu in gpus for process in gpu.get("processes") or ()} - {None}
    names = _names() if ids else {}
    return [_named(gpu, names) for gpu in gpus]


def _named(gpu: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    processes = [{**p, "container": _name(p["container"], names)} for p in gpu.get("processes") or ()]
    return {**gpu, "processes": processes} if processes else gpu


def _name(container: str | None, names: dict[str, str]) -> str | None:
    return container and names.get(container, container[:SHORT])


def _names() -> dict[str, str]:
    try:
        return {c["Id"]: printable(c["Names"][0].lstrip("/")) for c in get("/containers/json") or [] if c["Names"]}
    except ProblemError:
        return {}
