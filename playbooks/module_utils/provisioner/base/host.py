"""Facts of the running system: its boot ID and its clock."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from ansible.module_utils.provisioner.base.files import read


def boot_id() -> str:
    return read(Path("/proc/sys/kernel/random/boot_id")).strip()


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
