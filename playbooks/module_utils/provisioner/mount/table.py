"""The table of mounts of the kernel: to read it asks no file system, so it answers while a server is down."""

from __future__ import annotations

import re
from pathlib import Path

from ansible.module_utils.provisioner.base.files import read

TABLE = Path("/proc/self/mountinfo")  # proc_pid_mountinfo(5)
PLACE = 4  # of the mount point in a line


def mount_points() -> set[str]:
    """Return the paths at which something is mounted: file systems, and folders by a bind mount."""
    lines = (line.split(" ") for line in read(TABLE).splitlines())
    return {_unescaped(fields[PLACE]) for fields in lines if len(fields) > PLACE}


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)
