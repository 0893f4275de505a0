"""The table of mounts of the kernel: to read it asks no file system, so it answers while a server is down."""

from __future__ import annotations

import re
from pathlib import Path

from ansible.module_utils.provisioner.base.files import read

TABLE = Path("/proc/self/mountinfo")  # proc_pid_mountinfo(5)
DEVICE, PLACE = 2, 4  # the device and the mount point in a line
OPTIONAL = 6  # the first of the fields that end with "-", among them shared:N and master:N


def mount_points() -> set[str]:
    """Return the paths at which something is mounted: file systems, and folders by a bind mount."""
    return set(_lines(TABLE))


def is_shared(path: str) -> bool:
    """Return whether a container can see what is mounted below a path later, see mount_namespaces(7)."""
    lines = _lines(TABLE)
    around = [place for place in lines if f"{path}/".startswith(f"{place.rstrip('/')}/")]
    fields = lines.get(max(around, key=len, default=""), [])[OPTIONAL:]
    return any(field.startswith(("shared:", "master:")) for field in fields[: fields.index("-")] if "-" in fields)


def devices(pid: int | None = None) -> dict[str, str]:
    """Return the device of what is mounted at each path, on the node or as a process sees it; empty if unknown."""
    return {place: fields[DEVICE] for place, fields in _lines(Path(f"/proc/{pid}/mountinfo") if pid else TABLE).items()}


def _lines(table: Path) -> dict[str, list[str]]:
    """Return the fields of each mount point; of several mounts at one place, the last one counts."""
    lines = (line.split(" ") for line in read(table).splitlines())
    return {_unescaped(fields[PLACE]): fields for fields in lines if len(fields) > PLACE}


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)
