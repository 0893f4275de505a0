"""How containers get GPUs on this node: by CDI, or by the legacy hook of NVIDIA's container toolkit."""

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
    """Return `toolkit_mode` (cdi, legacy or None) and `cdi_devices`; `info` is the engine's own description.

    The mode is cdi only when the specifications name every GPU by its UUID, because seats ask for GPUs by UUID. An
    engine with CDI switched off names no folders of specifications.
    """
    devices = cdi_devices(Path(folder) for folder in info.get("CDISpecDirs") or [])
    uuids = [gpu.get("uuid") for gpu in gpus if not gpu.get("mig_enabled")]  # its MIG devices are named
    mode = None
    if uuids and all(f"nvidia.com/gpu={uuid}" in devices for uuid in uuids):
        mode = "cdi"
    elif shutil.which(HOOK) or _has_runtime(info):
        mode = "legacy"
    return {"toolkit_mode": mode, "cdi_devices": devices}


def _has_runtime(info: dict[str, Any]) -> bool:
    """Return whether the engine has NVIDIA's runtime, configured and installed."""
    path = info.get("Runtimes", {}).get("nvidia", {}).get("path")
    return bool(path and shutil.which(path))


def cdi_devices(folders: Iterable[Path]) -> list[str]:
    """Return the qualified device names, such as nvidia.com/gpu=0, of all specifications in these folders."""
    found = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    return [name for path in found if path.suffix in (".json", ".yaml", ".yml") for name in parse_devices(read(path))]


def parse_devices(text: str) -> list[str]:
    """Return the device names of a specification in JSON, or in YAML as nvidia-ctk writes it.

    Nodes have no YAML library, so the few lines that matter are matched.
    """
    try:
        spec = json.loads(text)
        kind, names = spec["kind"], [device["name"] for device in spec["devices"]]
    except (ValueError, KeyError, TypeError):
        kinds = KIND.findall(text)
        kind, names = (kinds[0] if kinds else ""), NAME.findall(text)
    return [f"{kind}={name}" for name in names] if kind.startswith("nvidia.com/") else []
