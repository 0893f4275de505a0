"""Which generation a rollback would go to."""

from __future__ import annotations

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.docker import engine
from ansible.module_utils.provisioner.seat.seat import Seat


def rollback_target(seat: Seat, wanted: int = 0) -> int:
    """Raises ProblemError where there is no such generation, or its image is gone."""
    number = wanted or seat.previous()
    if number not in seat.numbers():
        raise _no_target(seat, f"no generation {wanted}" if wanted else "no generation before the one in force")
    if engine.image(seat.order(number)["image"]["reference"]) is None:
        raise _no_target(seat, f"generation {number}, but not its image")
    return number


def _no_target(seat: Seat, what: str) -> ProblemError:
    current = seat.current()
    others = ", ".join(str(number) for number in seat.numbers() if number != current)
    return ProblemError(
        "no_rollback_target",
        f"{seat.name} keeps {what}; in force is {current or 'none'}, kept beside it: {others or 'none'}",
        "a node keeps the generation before the one in force; `docker image prune -a` takes images that no container"
        " uses, tagged or not",
        "roll out what is wanted, with its lock: provision rollout",
    )
