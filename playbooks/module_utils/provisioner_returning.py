"""Back to a generation that the node keeps: without the network, and by the same transaction as the way forward.

Where it fails, the seat goes forward again to what ran before it. What it came from stays, so one may go there again.
"""

from __future__ import annotations

from typing import Any

from ansible.module_utils import provisioner_engine as engine
from ansible.module_utils.provisioner_busy import consent
from ansible.module_utils.provisioner_claims import check
from ansible.module_utils.provisioner_compose import Compose
from ansible.module_utils.provisioner_host import Fault
from ansible.module_utils.provisioner_jobfile import Job
from ansible.module_utils.provisioner_journal import Journal
from ansible.module_utils.provisioner_moved import check_unmoved, moved_by
from ansible.module_utils.provisioner_precheck import check_ports
from ansible.module_utils.provisioner_seat import Seat, seat_of
from ansible.module_utils.provisioner_switching import committed, recover, transact


def roll_back(order: dict[str, Any], job: Job, lock: int) -> dict[str, Any]:
    """The record. `to` of the order is a generation, 0 the one before. Raises Fault where nothing was touched."""
    seat = seat_of(order)
    compose, journal = Compose(seat, (lock,)), Journal(seat.folder, order["run"])
    check_unmoved(seat, journal, order)
    recover(compose, journal, order, job.tell)
    if moved_by(seat, journal, order["run"]):
        return committed(seat)
    if order["to"] and order["to"] == seat.current():
        return {**committed(seat), "state": "unchanged"}
    _ready(compose, order["to"])  # what cannot be had is told before anybody is waited for
    consent(compose, journal, order, job.tell)
    check(order["state_root"], order.get("claim"))  # to wait for somebody may have taken hours
    number = _ready(compose, order["to"])
    return transact(compose, journal, number, seat.order(number), job.tell)


def _ready(compose: Compose, wanted: int) -> int:
    """The generation to go back to, proved as far as it can be while all goes on."""
    number = target(compose.seat, wanted)
    compose.check(number)
    check_ports(compose.seat.order(number)["seat"])
    return number


def target(seat: Seat, wanted: int = 0) -> int:
    """Raises Fault where there is no such generation, or its image is gone."""
    number = wanted or seat.previous()
    if number not in seat.numbers():
        raise _no_target(seat, f"no generation {wanted}" if wanted else "no generation before the one in force")
    if engine.image(seat.order(number)["image"]["reference"]) is None:
        raise _no_target(seat, f"generation {number}, but not its image")
    return number


def _no_target(seat: Seat, what: str) -> Fault:
    current = seat.current()
    others = ", ".join(str(number) for number in seat.numbers() if number != current)
    return Fault(
        "no_rollback_target",
        f"{seat.name} keeps {what}; in force is {current or 'none'}, kept beside it: {others or 'none'}",
        "a node keeps the generation before the one in force; `docker image prune -a` takes images that no container"
        " uses, tagged or not",
        "roll out what is wanted, with its lock: provision rollout",
    )
