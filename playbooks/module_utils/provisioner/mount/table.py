"""The table of mounts of the kernel: to read it asks no file system, so it answers while a server is down."""

from __future__ import annotations

import re
from pathlib import Path

from ansible.module_utils.provisioner.base.files import read

TABLE = Path("/proc/self/mountinfo")  # proc_pid_mountinfo(5)
PLACE = 4  # of the mount point in a line
OPTIONAL = 6  # the first of the fields that end with "-", among them shared:N and master:N


def mount_points() -> set[str]:
    """Return the paths at which something is mounted: file systems, and folders by a bind mount."""
    return set(_lines())


def is_shared(path: str) -> bool:
    """Return whether a container can see what is mounted below a path later, see mount_namespaces(7)."""
    lines = _lines()
    around = [place for place in lines if f"{path}/".startswith(f"{place.rstrip('/')}/")]
    return any(field.startswith(("shared:", "master:")) for field in lines.get(max(around, key=len, default=""), ()))


def _lines() -> dict[str, list[str]]:
    """Return the optional fields of each mount point; of several mounts at one place, the last one counts."""
    found = {}
    for fields in (line.split(" ") for line in read(TABLE).splitlines()):
        if len(fields) > PLACE:
            optional = fields[OPTIONAL:]
            found[_unescaped(fields[PLACE])] = optional[: optional.index("-")] if "-" in optional else []
    return found


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)
