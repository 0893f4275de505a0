"""The broker as a process of the node: starting it, stopping it, and whether it runs. Jobs of seats go on meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import write_atomic
from ansible.module_utils.provisioner.base.host import boot_id
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.self_service import units
from ansible.module_utils.provisioner.self_service.installed import STARTED, broker_pid
from ansible.module_utils.provisioner.self_service.layout import Layout

SYSTEMCTL_SECONDS = 60
STOP_SECONDS = 15  # it ends between two steps, each of which takes less
KILL_SECONDS = 5
PAUSE = 0.05
# The shell ends at once, and the broker belongs to the first process of the node.
IN_BACKGROUND = 'log=$1; shift; setsid "$@" </dev/null >>"$log" 2>&1 &'


def start(layout: Layout, socket: str, program: str) -> str:
    """Start the broker, in place of one that runs; return `started_by`. `program`: the digest of the program.

    Raises ProblemError `broker_not_started`, and `broker_not_stopped`.
    """
    forget_start(layout)
    stop(layout)
    argv = units.command(layout, socket)
    at_boot = units.install(layout, argv)
    by = _start_by_systemd(argv) if at_boot == "systemd" else _start_in_background(layout, argv, at_boot)
    started = {"by": by, "socket": socket, "program": program, "boot_id": boot_id()}
    with contextlib.suppress(OSError):  # without the record the next job starts it again
        write_atomic(layout.folder / STARTED, json.dumps(started))
    return by


def forget_start(layout: Layout) -> None:
    """Remove the record of what the broker was started from: another program is about to be there, or to be started."""
    with contextlib.suppress(FileNotFoundError):
        (layout.folder / STARTED).unlink()


def _start_by_systemd(argv: list[str]) -> str:
    """Start the unit; below systemd 246, which sees it at the next boot only, a unit without a file."""
    if run(["systemctl", "start", units.UNIT], SYSTEMCTL_SECONDS).code == 0:
        return "systemd"
    options = [f"--property={option}" for option in units.PROCESS_OPTIONS]  # old releases know no others here
    ran = run(["systemd-run", "--collect", f"--unit={units.TRANSIENT}", *options, *argv], SYSTEMCTL_SECONDS)
    if ran.code != 0:
        raise _not_started(ran.message)
    return "systemd_run"


def _start_in_background(layout: Layout, argv: list[str], at_boot: str) -> str:
    ran = run(["sh", "-c", IN_BACKGROUND, "sh", str(layout.log), *argv], SYSTEMCTL_SECONDS)
    if ran.code != 0:
        raise _not_started(ran.message)
    return at_boot


def stop(layout: Layout) -> None:
    """Stop the broker, whatever has started it. Raises ProblemError `broker_not_stopped`."""
    if units.has_systemd() and units.is_installed(layout):
        run(["systemctl", "stop", units.UNIT, units.TRANSIENT], SYSTEMCTL_SECONDS)  # fails where it knows no such unit
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        pid = broker_pid(layout)
        if pid is None or _ends(layout, pid, number, seconds):
            return
    raise ProblemError(
        "broker_not_stopped",
        f"the broker (pid {broker_pid(layout)}) does not end",
        "two brokers of one node would give a GPU to two people",
        "look for a disk or a file system that does not answer: dmesg; then try again",
    )


def _ends(layout: Layout, pid: int, number: int, seconds: float) -> bool:
    """Send a signal to the broker and return whether it ends in time."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    deadline = time.monotonic() + seconds
    while broker_pid(layout) == pid:
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)
    return True


def _not_started(message: str) -> ProblemError:
    return ProblemError(
        "broker_not_started",
        f"the broker could not be started: {message}",
        "without it people cannot start or prolong a seat, and no lease ends",
        f"check on the node: systemctl status {units.UNIT}; journalctl -u {units.UNIT}",
    )
