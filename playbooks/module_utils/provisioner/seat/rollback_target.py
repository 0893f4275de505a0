"""The generation that a rollback goes to."""

from __future__ import annotations

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.docker import engine
from ansible.module_utils.provisioner.seat.seat import Seat


def rollback_target(seat: Seat, wanted: int = 0) -> int:
    """Return generation `wanted`, 0 for the one before the current one, once its image is known to be present.

    Raises ProblemError `no_rollback_target` when the generation or its image is missing.
    """
    number = wanted or seat.previous()
    if number not in seat.numbers():
        raise _no_target(seat, f"no generation {wanted}" if wanted else "no generation before the current one")
    if engine.image(seat.order(number)["image"]["reference"]) is None:
        raise _no_target(seat, f"generation {number}, but not its image")
    return number


def _no_target(seat: Seat, what: str) -> ProblemError:
    current = seat.current()
    others = ", ".join(str(number) for number in seat.numbers() if number != current)
    return ProblemError(
        "no_rollback_target",
        f"{seat.name} has {what}; the current one is {current or 'none'}, others: {others or 'none'}",
        "a node keeps the current generation and the one before it; `docker image prune -a` removes images that no"
        " container uses",
        "roll out the wanted lock: provision rollout",
    )
