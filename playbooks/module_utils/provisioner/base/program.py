"""A program of a node: a copy of the node code in a folder of its own, with main files beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

from ansible.module_utils.provisioner.base.files import read, sync_folder, write_atomic


def packaged(code: dict[str, str]) -> dict[str, str]:
    """Return the node code as packages, by path in the folder of a program. `code`: see `own_code` of boot.py."""
    modules = {f"ansible/module_utils/{path}": text for path, text in code.items()}
    return {**modules, "ansible/__init__.py": "", "ansible/module_utils/__init__.py": ""}


def is_written(program: Path, files: dict[str, str]) -> bool:
    """Return whether a program has these files, by path in its folder."""
    return {path: read(program / path) for path in files} == files


def write_program(program: Path, files: dict[str, str], before: Path | None = None) -> None:
    """Replace a program as a whole, so that it never mixes two releases. Raises OSError.

    `before`: where the earlier program is kept, unless one is there already; None: it is not kept.
    """
    new = program.with_name(f".{program.name}")
    shutil.rmtree(str(new), ignore_errors=True)
    new.mkdir(mode=0o700, parents=True)
    for path, text in files.items():
        (new / path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(new / path, text)
    if before and program.exists() and not before.exists():
        program.replace(before)
    shutil.rmtree(str(program), ignore_errors=True)
    new.replace(program)
    sync_folder(program.parent)
