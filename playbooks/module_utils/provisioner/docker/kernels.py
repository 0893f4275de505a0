"""Whether kernels of a self-service seat run code: its health check says so, and the engine keeps what it has said.

So no program is run in a container for it, and no token leaves the seat. Who runs code in a seat can make it say that
kernels are busy: that costs this person alone, up to the end of the lease. The engine keeps 4 kB of it, and ends a
check after 10 s.
"""

from __future__ import annotations

import re
from typing import Any

SAID = re.compile(r"HTTP 200, busy kernels: ([0-9]{1,6})\s*")


def kernel_use(container: dict[str, Any] | None) -> list[str]:
    """Return a line where kernels run code, or where that is not known; none where all are idle.

    `container`: the engine's description of the container of Jupyter, None without one.
    """
    try:
        found = SAID.fullmatch((container or {})["State"]["Health"]["Log"][-1]["Output"])
    except (KeyError, IndexError, TypeError):
        found = None
    if found is None:
        return ["jupyter: it is unknown whether kernels run code"]
    return [f"jupyter: {int(found[1])} kernels run code"] if int(found[1]) else []
