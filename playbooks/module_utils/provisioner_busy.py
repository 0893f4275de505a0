"""Is someone at work on a seat's GPUs, and what then? What cannot be known counts as work."""

from __future__ import annotations

import time
from typing import Any, Callable, Iterable

from ansible.module_utils.provisioner_compose import Compose
from ansible.module_utils.provisioner_host import Fault
from ansible.module_utils.provisioner_journal import Journal
from ansible.module_utils.provisioner_nvml import ask_nvml
from ansible.module_utils.provisioner_occupants import named
from ansible.module_utils.provisioner_seat import Seat

# A card that draws a desktop, or whose driver keeps something ready, holds less; the smallest CUDA context about this.
IDLE_BYTES = 500 << 20
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0  # seconds between two looks
SHOWN = 300  # characters of who is waited for


class Busy(Fault):
    """Someone is at work, and nothing was stopped."""

    state = "deferred"


def consent(compose: Compose, journal: Journal, order: dict[str, Any], tell: Callable[..., None]) -> None:
    """Returns when the seat's containers may be stopped. Raises Busy where they may not.

    The policy is the order's `when_busy`. Consent by force is in the journal before anything stops: who gave it,
    why, and whose work it ends.
    """
    wish = {"policy": "defer", "seconds": 0, "reason": "", **(order.get("when_busy") or {})}
    _check(wish)
    if not is_up(compose):
        return
    end, pause = time.monotonic() + (wish["seconds"] if wish["policy"] == "wait" else 0), FIRST_PAUSE
    while True:
        who = at_work(gpus_of(compose.seat, journal))
        if not who:
            return
        if wish["policy"] == "force":
            by = (order.get("claim") or {}).get("holder", "")
            journal.append("forced", by=by, reason=wish["reason"], stopped=who)
            return
        left = end - time.monotonic()
        if left <= 0:
            raise _busy(compose.seat.name, who)
        tell(f"waiting for {'; '.join(who)[:SHOWN]}")
        time.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE)


def _check(wish: dict[str, Any]) -> None:
    if wish["policy"] == "force" and not wish["reason"].strip():
        raise Fault(
            "force_without_reason",
            "work may be ended by force only with a reason",
            "whoever loses work can read on the node why",
            "give one: --reason TEXT",
        )


def is_up(compose: Compose) -> bool:
    """Whether anything of the seat runs; a container that is paused holds its GPU, too."""
    return runs(compose.containers())


def runs(containers: list[dict[str, Any]]) -> bool:
    return any(container["State"] not in ("created", "exited", "dead") for container in containers)


def gpus_of(seat: Seat, journal: Journal) -> list[str]:
    """Of every generation that may be running now: the one in force, and that of a switch without an end."""
    open_switch = journal.interrupted()
    numbers = {seat.current(), open_switch["detail"]["to"] if open_switch else 0} & set(seat.numbers())
    return sorted({uuid for number in numbers for uuid in seat.order(number)["seat"]["gpus"]})


def at_work(uuids: list[str]) -> list[str]:
    """Who uses these GPUs, in words; also why it is not known. Empty where nobody does."""
    if not uuids:
        return []
    nvml = ask_nvml()
    if "error" in nvml:
        return [f"the GPUs cannot be asked who uses them: {nvml['reason']}"]
    return _users_of(uuids, named(nvml["gpus"]))


def who_would_stop(seat: Seat, gpus: Iterable[dict[str, Any]]) -> list[str]:
    """The same for a seat that runs, by what NVML told of the node's GPUs a moment ago; for a plan."""
    try:
        return _users_of(gpus_of(seat, Journal(seat.folder, "")), gpus)
    except Fault:
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


def _busy(name: str, who: list[str]) -> Busy:
    return Busy(
        "busy",
        f"{name}: {'; '.join(who)}",
        "the seat's containers would have to stop, and this work with them; what is not known counts as work",
        "run again when it has ended; or wait for it, or end it by force with a reason (--when-busy)",
    )
