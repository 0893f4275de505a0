"""Facts of the running system: its boot ID and its clock."""

from __future__ import annotations

import ctypes
from datetime import datetime, timezone
from pathlib import Path

from ansible.module_utils.provisioner.base.files import read

CLOCK_STATES = range(5)  # of adjtimex(2): TIME_OK and those of leap seconds; TIME_ERROR is 5, and -1 an error
TIMEX_BYTES = 512  # struct timex has 208


def boot_id() -> str:
    """Return the kernel's boot ID, which changes at every boot."""
    return read(Path("/proc/sys/kernel/random/boot_id")).strip()


def now() -> str:
    """Return the current time in UTC (ISO 8601, seconds)."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def is_clock_synchronised() -> bool:
    """Return whether the kernel says that a time service keeps the clock right; False where it does not say."""
    return ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES)) in CLOCK_STATES
