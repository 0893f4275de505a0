"""Why a seat was not started after a boot: a mount was not there in time. It counts until the next boot, or start."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from ansible.module_utils.provisioner.base.files import read, write_atomic
from ansible.module_utils.provisioner.base.host import boot_id

FILE = "not_started.json"  # in the folder of the seat


def note(folder: Path, problem: dict[str, str] | None) -> None:
    """Record why a seat was not started; None removes the record. On a full disk nothing is recorded."""
    with contextlib.suppress(OSError):
        if problem:
            write_atomic(folder / FILE, json.dumps({"boot": boot_id(), "problem": problem}))
        else:
            (folder / FILE).unlink()


def noted(folder: Path) -> list[dict[str, str]]:
    """Return why a seat was not started since the last boot, nothing without a record that is whole."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        found = json.loads(read(folder / FILE))
        return [dict(found["problem"])] if found["boot"] == boot_id() else []
    return []
