"""Is someone at work on a seat's GPUs, and what then? What cannot be known counts as work."""

from __future__ import annotations

import time
from typing import Any, Iterable

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.gpu.nvml import query_nvml
from ansible.module_utils.provisioner.gpu.processes import with_container_names
from ansible.module_utils.provisioner.seat.compose import Compose
from ansible.module_utils.provisioner.seat.journal import Journal
from ansible.module_utils.provisioner.seat.seat import Seat

# A card that draws a desktop, or whose driver keeps something ready, holds less; the smallest CUDA context about this.
IDLE_BYTES = 500 << 20
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0  # seconds between two looks
SHOWN = 300  # characters of who is waited for


class BusyError(ProblemError):
    """Someone is at work, and nothing was stopped."""

    state = "deferred"


def require_consent(compose: Compose, journal: Journal, order: dict[str, Any], report: Report) -> None:
    """Returns when the seat's containers may be stopped. Raises Busy where they may not.

    The policy is the order's `when_busy`. Consent by force is in the journal before anything stops: who gave it,
    why, and whose work it ends.
    """
    wish = {"policy": "defer", "seconds": 0, "reason": "", **(order.get("when_busy") or {})}
    _check_policy(wish)
    if not is_running(compose):
        return
    end, pause = time.monotonic() + (wish["seconds"] if wish["policy"] == "wait" else 0), FIRST_PAUSE
    while True:
        who = gpu_users(seat_gpus(compose.seat, journal))
        if not who:
            return
        if wish["policy"] == "force":
            by = (order.get("claim") or {}).get("holder", "")
            journal.append("forced", by=by, reason=wish["reason"], stopped=who)
            return
        left = end - time.monotonic()
        if left <= 0:
            raise _busy(compose.seat.name, who)
        report(f"waiting for {'; '.join(who)[:SHOWN]}")
        time.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE)


def _check_policy(wish: dict[str, Any]) -> None:
    if wish["policy"] == "force" and not wish["reason"].strip():
        raise ProblemError(
            "force_without_reason",
            "work may be ended by force only with a reason",
            "whoever loses work can read on the node why",
            "give one: --reason TEXT",
        )


def is_running(compose: Compose) -> bool:
    """Whether anything of the seat runs; a container that is paused holds its GPU, too."""
    return any_running(compose.containers())


def any_running(containers: list[dict[str, Any]]) -> bool:
    return any(container["State"] not in ("created", "exited", "dead") for container in containers)


def seat_gpus(seat: Seat, journal: Journal) -> list[str]:
    """Of every generation that may be running now: the one in force, and that of a switch without an end."""
    open_switch = journal.open_switch()
    numbers = {seat.current(), open_switch["detail"]["to"] if open_switch else 0} & set(seat.numbers())
    return sorted({uuid for number in numbers for uuid in seat.order(number)["seat"]["gpus"]})


def gpu_users(uuids: list[str]) -> list[str]:
    """Who uses these GPUs, in words; also why it is not known. Empty where nobody does."""
    if not uuids:
        return []
    nvml = query_nvml()
    if "error" in nvml:
        return [f"the GPUs cannot be asked who uses them: {nvml['reason']}"]
    return _users_of(uuids, with_container_names(nvml["gpus"]))


def affected_users(seat: Seat, gpus: Iterable[dict[str, Any]]) -> list[str]:
    """The same for a seat that runs, by what NVML told of the node's GPUs a moment ago; for a plan."""
    try:
        return _users_of(seat_gpus(seat, Journal(seat.folder, "")), gpus)
    except ProblemError:
        return []  # its order cannot be read: it is damaged, and told as such


def _users_of(uuids: list[str], gpus: Iterable[dict[str, Any]]) -> list[str]:
    known = {gpu.get("uuid"): gpu for gpu in gpus}
    return [line for uuid in uuids for line in _users(uuid, known.get(uuid))]


def _users(uuid: str, gpu: dict[str, Any] | None) -> list[str]:
    if gpu is None:
        return [f"the driver does not name {uuid}: who uses it is not known"]
    where, processes = f"GPU {gpu['index']}", gpu["processes"]
    if processes is None or gpu["problems"]:
        told = "; ".join(problem["what"] for problem in gpu["problems"])
        return [f"{where}: who uses it is not known{told and f' ({told})'}"]
    computing = [f"{where}: {_in_words(process)}" for process in processes if process["kind"] == "compute"]
    return computing or [f"{where}: {trace}" for trace in _traces(gpu)]


def _in_words(process: dict[str, Any]) -> str:
    words = [f"pid {process['pid']}", process["command"]]
    words += [process["user"] and f"of {process['user']}", process["container"] and f"in {process['container']}"]
    return " ".join(word for word in words if word)


def _traces(gpu: dict[str, Any]) -> list[str]:
    """Work of a process that the driver does not name. What draws a desktop may hold memory and compute a little."""
    held = (gpu["memory_used"] or 0) - sum(process["used_memory"] or 0 for process in gpu["processes"])
    if held > IDLE_BYTES:
        return [f"{held / 1e9:.1f} GB are held, by no process that the driver names"]
    if gpu["utilization"] and not gpu["processes"]:
        return [f"{gpu['utilization']} % in use, by no process that the driver names"]
    return []


def _busy(name: str, who: list[str]) -> BusyError:
    return BusyError(
        "busy",
        f"{name}: {'; '.join(who)}",
        "the seat's containers would have to stop, and this work with them; what is not known counts as work",
        "run again when it has ended; or wait for it, or end it by force with a reason (--when-busy)",
    )
