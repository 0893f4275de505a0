"""Recovery at boot on nodes with systemd: a copy of the node code, and a unit that runs it once.

There is no `systemctl daemon-reload`: it takes the GPUs from containers that got them by NVIDIA's legacy hook. systemd
reads the unit at the next boot, which is when it is needed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from ansible.module_utils.provisioner.base.files import read, sync_folder, write_atomic
from ansible.module_utils.provisioner.transaction.recover_node import recover_at_boot

RUNNING = Path("/run/systemd/system")  # sd_booted(3)
UNITS = Path("/etc/systemd/system")
UNIT = "provisioner-recover.service"
WANTS = "multi-user.target.wants"
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
After=docker.service nvidia-persistenced.service nvidia-cdi-refresh.service
ConditionPathExists={main}

[Service]
Type=oneshot
ExecStart={python} -I {main}
TimeoutStartSec=3600

[Install]
WantedBy=multi-user.target
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


def install(state_root: str, code: dict[str, str]) -> None:
    """Install or update program and unit. Nodes without systemd get neither; there the next contact recovers."""
    if (
        os.geteuid() != 0
        or not RUNNING.is_dir()
        or not state_root.startswith(SYSTEM)
        or not PLAIN.fullmatch(state_root)
    ):
        return
    program = Path(state_root) / "node" / "program"
    files = _program(program, state_root, code)
    if {path: read(program / path) for path in files} != files:
        _replace(program, files)
    text = TEXT.format(main=program / "recover.py", python=_python())
    if read(UNITS / UNIT) != text:
        write_atomic(UNITS / UNIT, text, 0o644)
    _enable()


def _program(program: Path, state_root: str, code: dict[str, str]) -> dict[str, str]:
    modules = {f"ansible/module_utils/{path}": text for path, text in code.items()}
    packages = {"ansible/__init__.py": "", "ansible/module_utils/__init__.py": ""}
    where = {"program": str(program), "state_root": state_root}
    main = MAIN.format(**where, module=recover_at_boot.__module__, name=recover_at_boot.__name__)
    return {**modules, **packages, "recover.py": main}


def _replace(program: Path, files: dict[str, str]) -> None:
    """Replace the program as a whole, so that it never mixes two releases."""
    new = program.with_name(".program")
    shutil.rmtree(str(new), ignore_errors=True)
    new.mkdir(mode=0o700, parents=True)
    for path, text in files.items():
        (new / path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(new / path, text)
    shutil.rmtree(str(program), ignore_errors=True)
    new.replace(program)
    sync_folder(program.parent)


def _enable() -> None:
    link = UNITS / WANTS / UNIT
    if not link.is_symlink():
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(UNITS / UNIT)
        sync_folder(link.parent)


def uninstall(state_root: str) -> None:
    """Remove the program, and the unit when it belongs to this state root."""
    program = Path(state_root) / "node" / "program"
    if str(program) in read(UNITS / UNIT):
        for path in (UNITS / WANTS / UNIT, UNITS / UNIT):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
    shutil.rmtree(str(program), ignore_errors=True)


def _python() -> str:
    """Return /usr/bin/python3 when it is the same program: this path survives an upgrade of the node's release."""
    usual = Path(PYTHON)
    return PYTHON if usual.exists() and usual.samefile(sys.executable) else sys.executable
