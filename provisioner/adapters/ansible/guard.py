"""End the plays of a controller that died, even by SIGKILL, and remove their folders.

The controller starts this file as a process of its own, which waits for the end of its standard input. The kernel
closes that pipe when the controller ends, however it ends. Only the standard library is used, and no other module of
this project, so that it starts in a few milliseconds.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

_GRACE_SECONDS = 3.0  # between SIGTERM and SIGKILL; Ansible passes a SIGTERM on to its workers
_PAUSE_SECONDS = 0.2


def start_guard(prefix: Path) -> "subprocess.Popen[bytes]":
    """Start a process that ends the plays whose folders begin with `prefix` when this process ends.

    It is in a session of its own: neither ^C nor a signal to the process group of the controller ends it.
    """
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(prefix)],
        stdin=subprocess.PIPE,  # no other process inherits our end of it
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )


def signal_plays(prefix: str, number: int = signal.SIGTERM) -> bool:
    """Send a signal to the processes of plays whose folders begin with `prefix`. Return whether there were any.

    They are Ansible, its workers and its SSH connections: each has the folder in its command line, and their children.
    A job that runs on this machine as on a node is none of them, and goes on.
    """
    found = _processes(prefix.encode())
    for process in found:
        with suppress(OSError):  # it has just ended, or belongs to another user
            os.kill(process, number)
    return bool(found)


def _processes(prefix: bytes) -> set[int]:
    """Return the processes of plays, and the descendants of these, without this process."""
    children: dict[int, list[int]] = {}
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended
            state, parent = path.joinpath("stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state == "Z":
                continue
            children.setdefault(int(parent), []).append(int(path.name))
            if prefix in path.joinpath("cmdline").read_bytes():
                found.append(int(path.name))
    own, processes = os.getpid(), set[int]()
    while found:
        process = found.pop()
        if process != own and process not in processes:
            processes.add(process)
            found += children.get(process, ())
    return processes


def _main(prefix: str) -> None:
    sys.stdin.buffer.read()
    deadline = time.monotonic() + _GRACE_SECONDS
    while signal_plays(prefix) and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)
    signal_plays(prefix, signal.SIGKILL)
    for folder in Path(prefix).parent.glob(f"{Path(prefix).name}*"):
        if folder.lstat().st_uid == os.geteuid():
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _main(sys.argv[1])
