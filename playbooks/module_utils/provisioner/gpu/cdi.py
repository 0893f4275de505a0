"""How GPUs get into this node's containers: by CDI, or by the older hook of NVIDIA's container toolkit."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, Iterable

from ansible.module_utils.provisioner.base.files import read

HOOK = "nvidia-container-runtime-hook"
NAME = re.compile(r"^\s*(?:-\s+)?name:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)
KIND = re.compile(r"^kind:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)


def toolkit_facts(info: dict[str, Any], gpus: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """`toolkit_mode` and `cdi_devices`. `info` is the engine's own: without CDI switched on it names no folders.

    The mode is cdi only where the specifications name every GPU by its UUID, for only then is CDI asked for.
    """
    devices = cdi_devices(Path(folder) for folder in info.get("CDISpecDirs") or [])
    uuids = [gpu.get("uuid") for gpu in gpus]
    mode = None
    if uuids and all(f"nvidia.com/gpu={uuid}" in devices for uuid in uuids):
        mode = "cdi"
    elif shutil.which(HOOK) or _has_runtime(info):
        mode = "legacy"
    return {"toolkit_mode": mode, "cdi_devices": devices}


def _has_runtime(info: dict[str, Any]) -> bool:
    """A runtime that is configured, and there."""
    path = info.get("Runtimes", {}).get("nvidia", {}).get("path")
    return bool(path and shutil.which(path))


def cdi_devices(folders: Iterable[Path]) -> list[str]:
    """Qualified names, such as nvidia.com/gpu=0, of all specifications that can be read."""
    found = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    return [name for path in found if path.suffix in (".json", ".yaml", ".yml") for name in parse_devices(read(path))]


def parse_devices(text: str) -> list[str]:
    """Of a specification in JSON, or in YAML as nvidia-ctk writes it: nodes have no YAML library."""
    try:
        spec = json.loads(text)
        kind, names = spec["kind"], [device["name"] for device in spec["devices"]]
    except (ValueError, KeyError, TypeError):
        kinds = KIND.findall(text)
        kind, names = (kinds[0] if kinds else ""), NAME.findall(text)
    return [f"{kind}={name}" for name in names] if kind.startswith("nvidia.com/") else []
