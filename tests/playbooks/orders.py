"""An order as a node receives it, with valid defaults, below a temporary folder."""

import os
from pathlib import Path
from typing import Any

# A loopback address that no seat of this machine publishes on.
HERE = "127.0.0.22"
REFERENCE = "registry.lab:5201/provisioner/lab@sha256:" + "a" * 64


def an_order(root: Path, run: str = "r1", **over: Any) -> dict[str, Any]:
    seat = {
        "name": "demo-student",
        "lab": "demo",
        "node": "n1",
        "user": "student",
        "uid": os.getuid(),
        "gid": os.getgid(),
        "home": str(root / "homes/student"),
        "gpus": ["GPU-1"],
        "gpu_driver": "nvidia",
        "ports": {"ssh": 22000, "jupyter": 22001},
        "binds": {"ssh": HERE, "jupyter": HERE},
        "subnet": "10.213.0.0/28",
    }
    order = {
        "run": run,
        "state_root": str(root / "state"),
        "seat": seat,
        "image": {"reference": REFERENCE, "tag": "t:1", "platform": "linux/amd64", "rootfs": [], "bytes": 0},
        "registry": {"address": "registry.lab:5201", "ca": None},
        "files": {"compose.yaml": "services: {}\n", "verify_keys": "", "gpu_check.py": "print(1)\n"},
        "deadlines": {"pull": 60, "healthy": 5, "min_healthy": 0},
    }
    return order | over


def with_seat(order: dict[str, Any], **over: Any) -> dict[str, Any]:
    return order | {"seat": order["seat"] | over}


class NoJob:
    """A job that discards its progress."""

    kind = "switch"

    def report(self, *_: Any, **__: Any) -> None:
        """Discard the progress."""
