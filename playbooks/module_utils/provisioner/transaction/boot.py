"""What a node runs by itself: a copy of the node code, which recovers seats at boot, and measures them each night.

For recovery a unit of systemd runs it once; the measurement does not need systemd. There is no `systemctl
daemon-reload`: it takes the GPUs from containers that got them by NVIDIA's legacy hook. systemd reads the unit of the
recovery at the next boot, which is when it is needed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils.provisioner.base.files import read, sync_folder, write_atomic
from ansible.module_utils.provisioner.base.program import is_written, packaged, write_program
from ansible.module_utils.provisioner.disk.measure import measure_node
from ansible.module_utils.provisioner.disk.schedule import Program, measure_beside, schedule, unschedule
from ansible.module_utils.provisioner.transaction.recover_node import recover_at_boot

RUNNING = Path("/run/systemd/system")  # sd_booted(3)
UNITS = Path("/etc/systemd/system")
UNIT = "provisioner-recover.service"
# An engine that restarts, as after an update, stops the seats that it does not start itself.
WANTS = ("multi-user.target.wants", "docker.service.wants")
SYSTEM = "/var/lib/"  # the seats of `provision me` are in a home folder and get no system unit
PLAIN = re.compile(r"/[A-Za-z0-9._/+-]+")  # systemd may interpret other characters
PYTHON = "/usr/bin/python3"
PREFIX = "ansible.module_utils."
OURS = re.compile(r"ansible\.module_utils\.(provisioner(\..+)?|pynvml)")
NOT_NEEDED = {f"{PREFIX}provisioner.jobs.entry"}  # it needs Ansible itself

MAIN = """\
import sys

sys.path.insert(0, {program!r})
from {module} import {name}

sys.exit({name}({state_root!r}))
"""
TEXT = """\
[Unit]
Description=Recover the seats of provisioner after a power cut
After=docker.service remote-fs.target nvidia-persistenced.service nvidia-cdi-refresh.service
ConditionPathExists={main}

[Service]
Type=oneshot
ExecStart={python} -I {main}
TimeoutStartSec=3600

[Install]
WantedBy=multi-user.target docker.service
"""


def own_code() -> dict[str, str]:
    """Return the source of our loaded modules by path below ansible/module_utils.

    It has to be read before Ansible removes the archive that the modules were loaded from.
    """
    names = [name for name in sys.modules if OURS.fullmatch(name) and name not in NOT_NEEDED]
    return dict(_source(name) for name in sorted(names))


def _source(name: str) -> tuple[str, str]:
    """The path and the text of a loaded module; a package is its __init__.py."""
    spec: Any = sys.modules[name].__spec__
    path = name[len(PREFIX) :].replace(".", "/")
    is_package = spec.submodule_search_locations is not None
    return f"{path}/__init__.py" if is_package else f"{path}.py", str(spec.loader.get_source(spec.name))


def install(state_root: str, code: dict[str, str], *, measures: bool = False) -> None:
    """Install or update program and unit. Nodes without systemd get neither; there the next contact recovers.

    `measures`: seats of people are measured each night, also on nodes without systemd.
    """
    has_systemd = RUNNING.is_dir()
    is_possible = os.geteuid() == 0 and state_root.startswith(SYSTEM) and PLAIN.fullmatch(state_root)
    if not is_possible or not (has_systemd or measures):
        return
    program = Path(state_root) / "node" / "program"
    files = _program(program, state_root, code)
    if not is_written(program, files):
        write_program(program, files)
    if has_systemd:
        _install_unit(program / "recover.py")
    if measures:
        _measure(Program(str(program / "measure.py"), python_path()), state_root, UNITS if has_systemd else None)


def _install_unit(main: Path) -> None:
    text = TEXT.format(main=main, python=python_path())
    if read(UNITS / UNIT) != text:
        write_atomic(UNITS / UNIT, text, 0o644)
    _enable()


def _measure(program: Program, state_root: str, units: Path | None) -> None:
    if not schedule(program, units):
        measure_beside(program, state_root)


def _program(program: Path, state_root: str, code: dict[str, str]) -> dict[str, str]:
    mains = {"recover.py": recover_at_boot, "measure.py": measure_node}
    texts = {file: _main(program, state_root, function) for file, function in mains.items()}
    return {**packaged(code), **texts}


def _main(program: Path, state_root: str, function: Callable[[str], int]) -> str:
    where = {"program": str(program), "state_root": state_root}
    return MAIN.format(**where, module=function.__module__, name=function.__name__)


def _enable() -> None:
    for link in (UNITS / wants / UNIT for wants in WANTS):
        if not link.is_symlink():
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(UNITS / UNIT)
            sync_folder(link.parent)


def uninstall(state_root: str) -> None:
    """Remove the program, and the units that belong to this state root."""
    program = Path(state_root) / "node" / "program"
    if str(program) in read(UNITS / UNIT):
        for path in (*(UNITS / wants / UNIT for wants in WANTS), UNITS / UNIT):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
    unschedule(str(program / "measure.py"), UNITS)
    shutil.rmtree(str(program), ignore_errors=True)


def python_path() -> str:
    """Return /usr/bin/python3 when it is the same program: this path survives an upgrade of the node's release."""
    usual = Path(PYTHON)
    return PYTHON if usual.exists() and usual.samefile(sys.executable) else sys.executable
