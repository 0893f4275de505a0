"""What starts the broker at boot: a unit of systemd, or a line of cron on a node without systemd.

The unit has constant text, and there is no `systemctl daemon-reload`: see disk/schedule.py.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Sequence

from ansible.module_utils.provisioner.base.files import read, sync_folder, write_atomic
from ansible.module_utils.provisioner.self_service.layout import Layout
from ansible.module_utils.provisioner.transaction.boot import python_path

RUNNING = Path("/run/systemd/system")  # sd_booted(3)
UNITS = Path("/etc/systemd/system")
UNIT = "provisioner-broker.service"
TRANSIENT = "provisioner-broker-run.service"  # until the next boot, where systemd does not see a new unit before
WANTS = "multi-user.target.wants"
CRON = Path("/etc/cron.d/provisioner-broker")  # run-parts(8): no dot in the name
CRON_PROGRAMS = ("cron", "crond")

# Jobs outlive the broker.
PROCESS_OPTIONS = ("KillMode=process", "Restart=on-failure", "RestartSec=5")
# Jobs set seats up, so no option gives the broker a view of its own of the file systems: homes that are mounted later
# would be missing there.
LIMITS = (
    "TimeoutStopSec=20",
    "OOMScoreAdjust=-900",  # leases have to end also where programs of seats have taken all memory, or all processes
    "TasksMax=infinity",
    "NoNewPrivileges=yes",
    "RestrictRealtime=yes",
    "LockPersonality=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
)
TEXT = """\
[Unit]
Description=Broker of provisioner, through which people start and stop their own seats
After=docker.service nvidia-persistenced.service nvidia-cdi-refresh.service
After=provisioner-recover.service nss-user-lookup.target
ConditionPathExists={main}

[Service]
Type=simple
ExecStart={command}
{options}

[Install]
WantedBy=multi-user.target
"""
CRON_TEXT = """\
# Starts the broker of provisioner at boot. provision removes it together with self-service.
@reboot root [ ! -e {main} ] || exec {command} >>{log} 2>&1
"""


def command(layout: Layout, socket: str) -> list[str]:
    """Return the command that runs the broker."""
    return [python_path(), "-I", str(layout.main), layout.state_root, socket]


def has_systemd() -> bool:
    """Return whether systemd runs as the first process of the node."""
    return RUNNING.is_dir()


def install(layout: Layout, argv: Sequence[str]) -> str:
    """Let the node start the broker at boot. Return what does: `systemd`, `cron` or `none`."""
    words = {"main": layout.main, "command": " ".join(argv), "log": layout.log}
    if has_systemd():
        _write(UNITS / UNIT, TEXT.format(**words, options="\n".join([*PROCESS_OPTIONS, *LIMITS])))
        _enable()
        _remove(CRON)
        return "systemd"
    if not (CRON.parent.is_dir() and any(map(shutil.which, CRON_PROGRAMS))):
        return "none"
    _write(CRON, CRON_TEXT.format(**words))
    return "cron"


def remove(layout: Layout) -> None:
    """Remove unit and cron file where they are those of this state root."""
    if str(layout.main) in read(UNITS / UNIT):
        _remove(UNITS / WANTS / UNIT)
        _remove(UNITS / UNIT)
    if str(layout.main) in read(CRON):
        _remove(CRON)


def is_installed(layout: Layout) -> bool:
    """Return whether a unit or a cron file starts the broker of this state root at boot."""
    return any(str(layout.main) in read(path) for path in (UNITS / UNIT, CRON))


def _enable() -> None:
    link = UNITS / WANTS / UNIT
    if not link.is_symlink():
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(UNITS / UNIT)
        sync_folder(link.parent)


def _write(path: Path, text: str) -> None:
    if read(path) != text:
        write_atomic(path, text, 0o644)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
