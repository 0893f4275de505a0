"""Who uses a seat, and whether its containers may be stopped. Unknown use counts as use.

Of a seat with GPUs, who uses these; of one without, who has a program in an SSH session or uses processor time. In a
self-service seat all of this counts, with or without GPUs, and kernels that run code.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Collection, Iterable

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.docker.activity import container_activity
from ansible.module_utils.provisioner.docker.containers import is_active
from ansible.module_utils.provisioner.docker.kernels import kernel_use
from ansible.module_utils.provisioner.gpu.nvml import query_nvml
from ansible.module_utils.provisioner.gpu.processes import with_container_names
from ansible.module_utils.provisioner.gpu.use import gpu_use, may_run_in
from ansible.module_utils.provisioner.jobs.claims import check_claim
from ansible.module_utils.provisioner.seat.compose import SERVICES, Compose
from ansible.module_utils.provisioner.seat.journal import Journal
from ansible.module_utils.provisioner.seat.seat import SELF_SERVICE, Seat, seats_of

FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0  # seconds between two queries
SHOWN = 300  # characters of the list of users in progress messages


class BusyError(ProblemError):
    """The seat is in use; nothing was stopped."""

    state = "deferred"


class GpuHeldError(ProblemError):
    """Another seat has a GPU that the seat is to get; nothing was stopped."""

    state = "deferred"


def require_consent(
    compose: Compose, journal: Journal, order: dict[str, Any], report: Report, *, removes: bool = False
) -> None:
    """Return once the seat's containers may be stopped; raise BusyError when they may not.

    The policy is `when_busy` of the order: defer, wait or force. Force is recorded in the journal before anything
    stops: by whom, for what reason, and which processes are ended. The claim of the order is checked after each pause:
    a run that takes the node over meanwhile ends this job, with ProblemError `fenced`, and finds the seat unlocked.
    `removes`: the seat is to be removed, also a damaged one, whose use is unknown; else that raises `seat_damaged`.
    """
    wanted = {"policy": "defer", "seconds": 0, "reason": "", **(order.get("when_busy") or {})}
    _check_policy(wanted)
    check_claim(order["state_root"], order.get("claim"))
    if not is_running(compose):
        return
    end, pause = time.monotonic() + (wanted["seconds"] if wanted["policy"] == "wait" else 0), FIRST_PAUSE
    while True:
        users = _users_of_removed(compose, journal) if removes else _seat_users(compose, journal)
        check_claim(order["state_root"], order.get("claim"))
        if not users:
            return
        if wanted["policy"] == "force":
            by = (order.get("claim") or {}).get("holder", "")
            journal.append("forced", by=by, reason=wanted["reason"], stopped=users)
            return
        left = end - time.monotonic()
        if left <= 0:
            raise _busy(compose.seat.name, users)
        report(f"waiting for {'; '.join(users)[:SHOWN]}")
        time.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE)


def _check_policy(wanted: dict[str, Any]) -> None:
    if wanted["policy"] == "force" and not wanted["reason"].strip():
        raise ProblemError(
            "force_without_reason",
            "the policy force needs a reason",
            "users who lose work can read the reason on the node",
            "add it: --reason TEXT",
        )


def is_running(compose: Compose) -> bool:
    """Return whether any container of the seat runs; a paused container holds its GPUs, too."""
    return any_running(compose.containers())


def any_running(containers: list[dict[str, Any]]) -> bool:
    """Return whether any of these containers is neither stopped nor just created."""
    return any(map(is_active, containers))


def seat_gpus(seat: Seat, journal: Journal) -> list[str]:
    """Return the GPUs of every generation that may run now: the current one, and that of an unfinished switch."""
    return sorted({uuid for wanted in _wanted(seat, journal) for uuid in wanted["gpus"]})


def shared_gpus(seat: Seat, journal: Journal) -> set[str]:
    """Return those of the same GPUs that other seats use, too, whichever of these generations runs."""
    wanted = _wanted(seat, journal)
    own = {uuid for one in wanted if not one.get("shared") for uuid in one["gpus"]}
    return {uuid for one in wanted for uuid in one["gpus"]} - own


def _wanted(seat: Seat, journal: Journal) -> list[dict[str, Any]]:
    """Return the seat as the order of every generation that may run now has it.

    When a switch begins that goes back to nothing (`back` 0), the current generation does not run, and it is not
    started before that switch has ended.
    """
    open_switch = journal.open_switch()
    detail = open_switch["detail"] if open_switch else {}
    current = 0 if detail.get("back") == 0 else seat.current()
    numbers = {current, detail.get("to", 0)} & set(seat.numbers())
    return [seat.order(number)["seat"] for number in sorted(numbers)]


def check_gpus_free(seat: Seat, order: dict[str, Any]) -> None:
    """Check that no other seat of the lab has a GPU that a person gets, unless both share it: an own GPU has one user.

    A seat whose containers do not run has none, unless a switch of it is unfinished. Raises GpuHeldError.
    """
    for other in seats_of(order["state_root"]) if order["seat"].get("person") else ():
        if other.name != seat.name and _holds(other, order["seat"]):
            raise _gpu_held(seat, other)


def _holds(other: Seat, wanted: dict[str, Any]) -> bool:
    """Return whether another seat has a GPU of an order that it does not share."""
    journal = Journal(other.folder, "")
    try:
        apart = [one["gpus"] for one in _wanted(other, journal) if _excludes(one, wanted)]
    except ProblemError:
        return False  # the plan reports a damaged seat
    has_one = not set(wanted["gpus"]).isdisjoint(uuid for gpus in apart for uuid in gpus)
    return has_one and (journal.open_switch() is not None or is_running(Compose(other, ())))


def _excludes(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two seats of a lab must not have the same GPU."""
    return bool(one.get("lab") == other.get("lab") and not (one.get("shared") and other.get("shared")))


def _gpu_held(seat: Seat, other: Seat) -> GpuHeldError:
    return GpuHeldError(
        "gpu_held",
        f"{other.name} still has GPUs that {seat.name} gets",
        "an own GPU has one user: two people would compute on it without knowing of each other",
        f"see the problems of {other.name}, then run the command again",
    )


def _users_of_removed(compose: Compose, journal: Journal) -> list[str]:
    try:
        return _seat_users(compose, journal)
    except ProblemError as fault:
        if fault.problem["code"] != "seat_damaged":
            raise
        return [f"the use of the seat is unknown: {fault}"]


def _seat_users(compose: Compose, journal: Journal) -> list[str]:
    uuids = seat_gpus(compose.seat, journal)
    is_self_service = any(one.get("kind") == SELF_SERVICE for one in _wanted(compose.seat, journal))
    users = gpu_users(uuids, compose.seat.name, shared_gpus(compose.seat, journal))
    if users or (uuids and not is_self_service):
        return users
    try:
        found = {service: compose.container(service) for service in SERVICES}
    except ProblemError as fault:
        return [f"the use of the containers is unknown: {fault}"]
    kernels = kernel_use(found["jupyter"]) if is_self_service else []
    return kernels + container_activity({name: one["State"].get("Pid", 0) for name, one in found.items() if one})


def gpu_users(uuids: list[str], seat: str = "", shared: Collection[str] = ()) -> list[str]:
    """Return one line for each user of these GPUs, also where use is unknown; empty when they are idle.

    `shared`: those of them that other seats use, too. There, a process in a container of another seat, or outside of
    containers, does not count: stopping the containers of `seat` does not end it.
    """
    if not uuids:
        return []
    nvml = query_nvml()
    if "error" in nvml:
        return [f"the use of the GPUs is unknown: {nvml['reason']}"]
    return _users_of(uuids, with_container_names(nvml["gpus"]), seat, shared)


def affected_users(seat: Seat, gpus: Iterable[dict[str, Any]]) -> list[str]:
    """Return the same lines from the GPU facts of a probe."""
    journal = Journal(seat.folder, "")
    try:
        return _users_of(seat_gpus(seat, journal), gpus, seat.name, shared_gpus(seat, journal))
    except ProblemError:
        return []  # the order cannot be read; the seat is reported as damaged


def _users_of(uuids: list[str], gpus: Iterable[dict[str, Any]], seat: str, shared: Collection[str]) -> list[str]:
    known = {gpu.get("uuid"): gpu for gpu in gpus}
    return [line for uuid in uuids for line in _users(uuid, known.get(uuid), seat if uuid in shared else None)]


def _users(uuid: str, gpu: dict[str, Any] | None, seat: str | None) -> list[str]:
    return gpu_use(uuid, gpu) if seat is None else gpu_use(uuid, gpu, partial(may_run_in, seat))


def _busy(name: str, users: list[str]) -> BusyError:
    return BusyError(
        "busy",
        f"{name}: {'; '.join(users)}",
        "stopping the seat's containers would end this work; unknown use counts as use",
        "run again when it has ended, or set --when-busy: wait for it, or end it by force with a reason",
    )
