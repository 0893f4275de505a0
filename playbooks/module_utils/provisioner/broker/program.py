"""The broker and its jobs as a program: a copy of the node code in a folder of its own, with two small main files."""

from __future__ import annotations

import compileall
import sys
from pathlib import Path
from typing import Sequence

from ansible.module_utils.provisioner.base import program as programs
from ansible.module_utils.provisioner.broker.config import MAIN_FILE, VERSION_FILE
from ansible.module_utils.provisioner.broker.seat_job import run_job
from ansible.module_utils.provisioner.broker.server import serve

JOB_FILE = "broker_job.py"
MAIN = """\
import sys

sys.path.insert(0, {program!r})
from {module} import {name}

sys.exit({name}(sys.argv[1:]))
"""
WORDS = 2  # state root and path of the socket


def run_broker(argv: Sequence[str]) -> int:
    """Run the broker until it is ended. `argv`: state root, path of the socket. Return the exit status."""
    if len(argv) != WORDS:
        sys.stderr.write(f"usage: {MAIN_FILE} STATE_ROOT SOCKET\n")
        return 2
    job = Path(sys.argv[0]).resolve().with_name(JOB_FILE)
    return serve(argv[0], argv[1], [sys.executable, "-I", str(job)])


def write_program(program: Path, code: dict[str, str], version: str = "", before: Path | None = None) -> None:
    """Write the program, which replaces an earlier one as a whole. `code`: see `own_code` of transaction/boot.py.

    `version`: of the release that it is from. `before`: where the earlier program is kept, unless one is there already.
    """
    programs.write_program(program, program_files(program, code, version), before)
    compileall.compile_dir(str(program), quiet=2)  # a broker that compiles them itself keeps 15 MB of memory for that


def program_files(program: Path, code: dict[str, str], version: str) -> dict[str, str]:
    """Return the files of a program by their path in its folder."""
    mains = {MAIN_FILE: run_broker, JOB_FILE: run_job}
    texts = {
        file: MAIN.format(program=str(program), module=function.__module__, name=function.__name__)
        for file, function in mains.items()
    }
    return {**programs.packaged(code), **texts, VERSION_FILE: f"{version}\n"}
