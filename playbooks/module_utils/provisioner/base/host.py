"""Facts of the running system: its boot ID and its clock."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from ansible.module_utils.provisioner.base.files import read


def boot_id() -> str:
    """Return the kernel's boot ID, which changes at every boot."""
    return read(Path("/proc/sys/kernel/random/boot_id")).strip()


def now() -> str:
    """Return the current time in UTC (ISO 8601, seconds)."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
