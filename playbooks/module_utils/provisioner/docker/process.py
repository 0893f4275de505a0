"""The engine's own process, and the limit of open files that it runs under."""

from __future__ import annotations

import re
import socket
import struct
from pathlib import Path

from ansible.module_utils.provisioner.base.files import read
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.docker.engine import socket_path

NAME = "dockerd"
PID_FILE = Path("/var/run/docker.pid")
PEER = struct.Struct("3i")  # struct ucred of SO_PEERCRED, unix(7): pid, uid, gid
SECONDS = 5
OPEN_FILES = re.compile(r"^Max open files +\S+ +([0-9]{1,9}|unlimited) ", re.MULTILINE)
UNLIMITED = 1 << 20  # the kernel's own limit of a process, fs.nr_open (proc_sys_fs(5))


def open_files() -> int | None:
    """Return how many files a process of the engine may have open (RLIMIT_NOFILE, hard), None if it is not known.

    Without CAP_SYS_RESOURCE the engine cannot start a container with a higher limit.
    """
    for pid in (_peer(), _recorded()):
        if pid and read(Path(f"/proc/{pid}/comm")).strip() == NAME:
            return parse_limits(read(Path(f"/proc/{pid}/limits")))
    return None


def parse_limits(text: str) -> int | None:
    """Return the hard limit of open files in the text of /proc/PID/limits, None when it has none."""
    found = OPEN_FILES.search(text)
    if found is None:
        return None
    return UNLIMITED if found.group(1) == "unlimited" else int(found.group(1)) or None


def _peer() -> int:
    """Return the process that opened the engine's socket, which is systemd where that starts the engine on demand."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(SECONDS)
            probe.connect(socket_path())
            return int(PEER.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))[0])
    except (OSError, ProblemError):
        return 0


def _recorded() -> int:
    """Return the process in the engine's pid file; after a power cut it may be another one."""
    text = read(PID_FILE).strip()
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0
