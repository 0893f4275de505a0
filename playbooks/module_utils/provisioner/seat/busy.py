"""Who uses the GPUs of a seat, and whether its containers may be stopped. Unknown use counts as use."""

from __future__ import annotations

import time
from typing import Any, Iterable

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.docker.containers import is_active
from ansible.module_utils.provisioner.gpu.nvml import gpu_label, query_nvml
from ansible.module_utils.provisioner.gpu.processes import with_container_names
from ansible.module_utils.provisioner.jobs.claims import check_claim
from ansible.module_utils.provisioner.seat.compose import Compose
from ansible.module_utils.provisioner.seat.journal import Journal
from ansible.module_utils.provisioner.seat.seat import Seat

# A GPU that draws a desktop, or keeps driver state, holds less; the smallest CUDA context needs about this.
IDLE_BYTES = 500 << 20
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0  # seconds between two queries
SHOWN = 300  # characters of the list of users in progress messages


class BusyError(ProblemError):
    """The GPUs are in use; nothing was stopped."""

    state = "deferred"


def require_consent(compose: Compose, journal: Journal, order: dict[str, Any], report: Report) -> None:
    """Return once the seat's containers may be stopped; raise BusyError when they may not.

    The policy is `when_busy` of the order: defer, wait or force. Force is recorded in the journal before anything
    stops: by whom, for what reason, and which processes are ended. The claim of the order is checked after each pause:
    a run that takes the node over meanwhile ends this job, with ProblemError `fenced`, and finds the seat unlocked.
    """
    wanted = {"policy": "defer", "seconds": 0, "reason": "", **(order.get("when_busy") or {})}
    _check_policy(wanted)
    check_claim(order["state_root"], order.get("claim"))
    if not is_running(compose):
        return
    end, pause = time.monotonic() + (wanted["seconds"] if wanted["policy"] == "wait" else 0), FIRST_PAUSE
    while True:
        users = gpu_users(seat_gpus(compose.seat, journal))
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
    open_switch = journal.open_switch()
    numbers = {seat.current(), open_switch["detail"]["to"] if open_switch else 0} & set(seat.numbers())
    return sorted({uuid for number in numbers for uuid in seat.order(number)["seat"]["gpus"]})


def gpu_users(uuids: list[str]) -> list[str]:
    """Return one line for each user of these GPUs, also where use is unknown; empty when they are idle."""
    if not uuids:
        return []
    nvml = query_nvml()
    if "error" in nvml:
        return [f"the use of the GPUs is unknown: {nvml['reason']}"]
    return _users_of(uuids, with_container_names(nvml["gpus"]))


def affected_users(seat: Seat, gpus: Iterable[dict[str, Any]]) -> list[str]:
    """Return the same lines from the GPU facts of a probe."""
    try:
        return _users_of(seat_gpus(seat, Journal(seat.folder, "")), gpus)
    except ProblemError:
        return []  # the order cannot be read; the seat is reported as damaged


def _users_of(uuids: list[str], gpus: Iterable[dict[str, Any]]) -> list[str]:
    known = {gpu.get("uuid"): gpu for gpu in gpus}
    return [line for uuid in uuids for line in _users(uuid, known.get(uuid))]


def _users(uuid: str, gpu: dict[str, Any] | None) -> list[str]:
    if gpu is None:
        return [f"the driver does not list {uuid}: its use is unknown"]
    where, processes = gpu_label(gpu), gpu["processes"]
    if processes is None or gpu["problems"]:
        reasons = "; ".join(problem["what"] for problem in gpu["problems"])
        return [f"{where}: its use is unknown{reasons and f' ({reasons})'}"]
    computing = [f"{where}: {_describe(process)}" for process in processes if process["kind"] == "compute"]
    return computing or [f"{where}: {use}" for use in _unlisted_use(gpu)]


def _describe(process: dict[str, Any]) -> str:
    words = [f"pid {process['pid']}", process["command"]]
    words += [process["user"] and f"of {process['user']}", process["container"] and f"in {process['container']}"]
    return " ".join(word for word in words if word)


def _unlisted_use(gpu: dict[str, Any]) -> list[str]:
    """Find use by processes that the driver does not list. Desktop processes may hold memory and compute a little."""
    held = (gpu["memory_used"] or 0) - sum(process["used_memory"] or 0 for process in gpu["processes"])
    if held > IDLE_BYTES:
        return [f"{held / 1e9:.1f} GB are in use by a process that the driver does not list"]
    if gpu["utilization"] and not gpu["processes"]:
        return [f"{gpu['utilization']} % utilization by a process that the driver does not list"]
    return []


def _busy(name: str, users: list[str]) -> BusyError:
    return BusyError(
        "busy",
        f"{name}: {'; '.join(users)}",
        "stopping the seat's containers would end this work; unknown use counts as use",
        "run again when it has ended, or set --when-busy: wait for it, or end it by force with a reason",
    )
