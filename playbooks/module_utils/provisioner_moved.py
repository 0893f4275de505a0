"""Has a seat moved since the plan was made? What the run itself did is no move."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.provisioner_host import Fault
from ansible.module_utils.provisioner_journal import Journal
from ansible.module_utils.provisioner_seat import Seat


class Stale(Fault):
    """The plan was made against another generation; nothing was touched."""

    state = "stale"


def check_unmoved(seat: Seat, journal: Journal, order: dict[str, Any]) -> None:
    """Raises Stale where another generation is in force than the one that the order expects."""
    expects, current = order.get("expects"), seat.current()
    if expects not in (None, current) and not moved_by(seat, journal, order["run"]):
        raise Stale(
            "stale_plan",
            f"{seat.name} runs generation {current}; the plan was made against {expects}",
            "someone changed the seat since then, and what was reviewed is not what would happen",
            "make the plan again: provision plan",
        )


def moved_by(seat: Seat, journal: Journal, run: str) -> bool:
    """Whether this run brought the seat to where it is: its process may have ended before it could say so."""
    current = seat.current()
    return bool(current) and journal.target(run) == current
