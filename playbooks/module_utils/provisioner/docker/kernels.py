"""What kernels of a self-service seat do: its health check says so, and the engine keeps what it has said.

So no program is run in a container for it, and no token leaves the seat. Who runs code in a seat can make it say that
kernels are busy: that costs this person alone, up to the end of the lease. The engine keeps 4 kB of it, and ends a
check after 10 s.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

SAID = re.compile(r"HTTP 200, busy kernels: ([0-9]{1,6})\s*(?:\n(\[.*\])\s*)?")
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SINCE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}")  # in UTC; a fraction may follow
STATE = re.compile(r"[a-z_]{1,20}")  # busy, idle, starting, dead …
MOST_SHOWN, MOST_NAME, MOST_COUNTED = 20, 48, 9999  # kernels, characters, and kernels
ROW = 4  # texts of a kernel: id, notebook, state, last activity


def kernel_use(container: dict[str, Any] | None) -> list[str]:
    """Return a line where kernels run code, or where that is not known; none where all are idle.

    `container`: the engine's description of the container of Jupyter, None without one.
    """
    found = _said(container)
    if found is None:
        return ["jupyter: it is unknown whether kernels run code"]
    return [f"jupyter: {int(found[1])} kernels run code"] if int(found[1]) else []


def kernel_list(container: dict[str, Any] | None, memory: dict[str, int]) -> dict[str, Any] | None:
    """Return how many kernels there are (`all`), and the first 20 of them (`listed`); None where that is not known.

    Each has `name` (the notebook; empty: it has none), `state`, `since` (its last activity, ISO 8601 in UTC; None: not
    known) and `gpu_bytes`. `memory`: id of a kernel -> bytes of GPU memory that its process holds.
    """
    found = _said(container)
    if found is None or (found[2] is None and int(found[1])):
        return None
    try:
        count, rows = json.loads(found[2] or "[0, []]")
    except (ValueError, TypeError, RecursionError):
        return None
    if not isinstance(count, int) or not isinstance(rows, list) or not all(map(_is_row, rows)):
        return None
    return {"all": min(count, MOST_COUNTED), "listed": [_kernel(memory, *row) for row in rows[:MOST_SHOWN]]}


def _is_row(row: Any) -> bool:
    return isinstance(row, list) and len(row) == ROW and all(isinstance(text, str) for text in row)


def _kernel(memory: dict[str, int], number: str, name: str, state: str, activity: str) -> dict[str, Any]:
    return {
        "name": "".join(c if c.isprintable() else "?" for c in name[:MOST_NAME]),
        "state": state if STATE.fullmatch(state) else "unknown",
        "since": _moment(activity),
        "gpu_bytes": memory.get(number, 0),
    }


def _moment(activity: str) -> str | None:
    found = SINCE.match(activity)
    try:
        datetime.fromisoformat(f"{found[0] if found else ''}+00:00")
    except ValueError:
        return None
    return f"{found[0]}Z" if found else None


def _said(container: dict[str, Any] | None) -> re.Match[str] | None:
    try:
        return SAID.fullmatch((container or {})["State"]["Health"]["Log"][-1]["Output"])
    except (KeyError, IndexError, TypeError):
        return None
