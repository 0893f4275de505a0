"""When seats are measured: each night by a timer of systemd, else by cron, else beside a rollout.

The units have constant text, and there is no `systemctl daemon-reload`: it takes the GPUs from containers that got them
by NVIDIA's legacy hook. From systemd 246 on a new unit starts without it (systemd#15948, systemd#16371). Where it does
not start, cron measures; where that is missing, too, the timer begins with the next boot.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
import zlib
from pathlib import Path
from typing import NamedTuple

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import read, sync_folder, write_atomic
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.seat.seat import DISK_USE, seats_of

SERVICE = "provisioner-disk.service"
TIMER = "provisioner-disk.timer"
WANTS = "timers.target.wants"
CRON = Path("/etc/cron.d/provisioner-disk")  # run-parts(8): no dot in the name
CRON_PROGRAMS = ("cron", "crond")
SYSTEMCTL_SECONDS = 30
HOUR = 3  # local time
DUE_SECONDS = 20 * 3600  # without timer and cron: a rollout measures no more often than this

SERVICE_TEXT = """\
[Unit]
Description=Measure what the seats of provisioner use on the disk
After=docker.service
ConditionPathExists={main}

[Service]
Type=oneshot
ExecStart={python} -I {main}
TimeoutStartSec=8h
"""
TIMER_TEXT = f"""\
[Unit]
Description=Measure each night what the seats of provisioner use on the disk

[Timer]
OnCalendar=*-*-* {HOUR:02}:00:00
RandomizedDelaySec=1h
Persistent=true

[Install]
WantedBy=timers.target
"""
CRON_TEXT = """\
# Measures each night what the seats of provisioner use on the disk. provision removes it with the last seat.
{minute} {hour} * * * root [ ! -e {main} ] || {python} -I {main} >/dev/null 2>&1
"""


class Program(NamedTuple):
    """The installed program: its `main` file, and the interpreter that runs it."""

    main: str
    python: str


def schedule(program: Program, units: Path | None) -> bool:
    """Let the node run the program each night. Return whether it does from now on.

    `units`: the folder of systemd's units; None on a node without systemd.
    """
    if units is not None and _start_timer(program, units):
        _remove(CRON)
        return True
    if not (CRON.parent.is_dir() and any(map(shutil.which, CRON_PROGRAMS))):
        return False
    minute = zlib.crc32(socket.gethostname().encode()) % 60  # not all nodes at once: homes may be on one server
    text = CRON_TEXT.format(minute=minute, hour=HOUR, main=program.main, python=program.python)
    _write(CRON, text)
    if units is not None:
        _remove_units(units)  # else there would be two from the next boot on
    return True


def unschedule(main: str, units: Path) -> None:
    """Remove timer and cron file where they are those of this program."""
    if main in read(units / SERVICE):
        _systemctl("stop")
        _remove_units(units)
    if main in read(CRON):
        _remove(CRON)


def measure_beside(program: Program, state_root: str) -> None:
    """Start the program in the background, unless a seat was measured in the last DUE_SECONDS, or none is set up."""
    seats = [seat for seat in seats_of(state_root) if (seat.folder / "current").is_symlink()]
    if not seats or any(_is_fresh(seat.folder / DISK_USE) for seat in seats):
        return
    subprocess.Popen(
        [program.python, "-I", program.main],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _is_fresh(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < DUE_SECONDS
    except OSError:
        return False


def _start_timer(program: Program, units: Path) -> bool:
    _write(units / SERVICE, SERVICE_TEXT.format(main=program.main, python=program.python))
    _write(units / TIMER, TIMER_TEXT)
    link = units / WANTS / TIMER
    if not link.is_symlink():
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(units / TIMER)
        sync_folder(link.parent)
    return _systemctl("start")


def _systemctl(verb: str) -> bool:
    try:
        return run(["systemctl", verb, TIMER], SYSTEMCTL_SECONDS).code == 0
    except ProblemError:
        return False


def _write(path: Path, text: str) -> None:
    if read(path) != text:
        write_atomic(path, text, 0o644)


def _remove_units(units: Path) -> None:
    for path in (units / WANTS / TIMER, units / TIMER, units / SERVICE):
        _remove(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
