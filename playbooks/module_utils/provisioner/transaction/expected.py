"""Has a seat moved since the plan was made? What the run itself did is no move."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.seat.journal import Journal
from ansible.module_utils.provisioner.seat.seat import Seat


class StalePlanError(ProblemError):
    """The plan was made against another generation; nothing was touched."""

    state = "stale"


def check_expected(seat: Seat, journal: Journal, order: dict[str, Any]) -> None:
    """Raises Stale where another generation is in force than the one that the order expects."""
    expects, current = order.get("expects"), seat.current()
    if expects not in (None, current) and not changed_by_run(seat, journal, order["run"]):
        raise StalePlanError(
            "stale_plan",
            f"{seat.name} runs generation {current}; the plan was made against {expects}",
            "someone changed the seat since then, and what was reviewed is not what would happen",
            "make the plan again: provision plan",
        )


def changed_by_run(seat: Seat, journal: Journal, run: str) -> bool:
    """Whether this run brought the seat to where it is: its process may have ended before it could say so."""
    current = seat.current()
    return bool(current) and journal.target(run) == current
