#!/usr/bin/env python3
"""Makes an OCI specification one that this machine can start: fix_spec.py FILE [nvidia].

GPU compose files ask for `memlock: -1`. Raising a hard limit needs CAP_SYS_RESOURCE, which a machine in a container
often lacks; so limits above the machine's own are lowered to them.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

HOOK = Path(__file__).resolve().parent / "nvidia-container-runtime-hook"


def lower_limits(process: dict[str, Any]) -> None:
    for limit in process.get("rlimits") or []:
        hard = resource.getrlimit(getattr(resource, limit["type"]))[1]
        if hard != resource.RLIM_INFINITY:
            limit["hard"], limit["soft"] = min(limit["hard"], hard), min(limit["soft"], hard)


def add_hook(spec: dict[str, Any]) -> None:
    hooks = spec.setdefault("hooks", {}).setdefault("prestart", [])
    if not any(Path(hook["path"]).name == HOOK.name for hook in hooks):
        hooks.append({"path": str(HOOK), "args": [HOOK.name, "prestart"]})


def main(path: Path, *, nvidia: bool) -> None:
    spec = json.loads(path.read_text())
    starts_a_container = "process" in spec  # the file of `exec` holds the process only
    lower_limits(spec["process"] if starts_a_container else spec)
    if nvidia and starts_a_container:
        add_hook(spec)
    path.write_text(json.dumps(spec))


if __name__ == "__main__":
    main(Path(sys.argv[1]), nvidia=sys.argv[2:] == ["nvidia"])
