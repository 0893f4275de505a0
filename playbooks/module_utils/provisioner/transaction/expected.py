"""What the jobs of a seat begin with: is it on the generation that the plan expects? And the record they end with."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.jobs.jobfile import Job
from ansible.module_utils.provisioner.seat.compose import Compose
from ansible.module_utils.provisioner.seat.identity import host_key
from ansible.module_utils.provisioner.seat.journal import Journal
from ansible.module_utils.provisioner.seat.seat import Seat, seat_of
from ansible.module_utils.provisioner.transaction.recover import check_usable, recover_seat


class StalePlanError(ProblemError):
    """The plan was made for another generation; nothing was changed."""

    state = "stale"


def begin(order: dict[str, Any], job: Job, lock: int) -> tuple[Compose, Journal, bool]:
    """Check that the seat can be changed, and end a switch that was left open.

    Return its compose project, its journal, and whether this run has changed the seat already. Raises ProblemError.
    """
    seat = seat_of(order)
    compose, journal = Compose(seat, (lock,)), Journal(seat.folder, order["run"])
    check_expected(seat, journal, order)
    check_usable(compose, journal)
    compose.check_ours()
    recover_seat(compose, journal, order, job.report)
    return compose, journal, changed_by_run(seat, journal, order["run"])


def check_expected(seat: Seat, journal: Journal, order: dict[str, Any]) -> None:
    """Raise StalePlanError when the current generation is not the expected one, unless this run changed it."""
    expects, current = order.get("expects"), seat.current()
    if expects not in (None, current) and not changed_by_run(seat, journal, order["run"]):
        raise StalePlanError(
            "stale_plan",
            f"{seat.name} runs generation {current}; the plan expects {expects}",
            "the seat was changed since the plan was made",
            "make a new plan: provision plan",
        )


def changed_by_run(seat: Seat, journal: Journal, run: str) -> bool:
    """Return whether this run switched the seat to its current generation, possibly in a job that was killed."""
    current = seat.current()
    return bool(current) and journal.target(run) == current


def committed_record(seat: Seat) -> dict[str, Any]:
    """Return the record of a seat that is on the wanted generation."""
    number = seat.current()
    return {"state": "committed", "generation": number, "access": _access(seat, seat.order(number)["seat"])}


def _access(seat: Seat, wanted: dict[str, Any]) -> dict[str, str]:
    binds, ports = wanted["binds"], wanted["ports"]
    return {
        "jupyter": f"http://{binds['jupyter']}:{ports['jupyter']}/lab",
        "ssh": f"ssh -p {ports['ssh']} {wanted['user']}@{binds['ssh']}",
        "host_key": host_key(seat),
    }
