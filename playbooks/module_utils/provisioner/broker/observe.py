"""What the broker looks at once a minute: its GPUs, which seats run, and whether anybody uses them."""

from __future__ import annotations

import contextlib
from typing import Any, Iterable, Mapping

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.broker.orders import KIND
from ansible.module_utils.provisioner.docker.activity import activity_by_seat
from ansible.module_utils.provisioner.docker.containers import running_containers
from ansible.module_utils.provisioner.docker.engine import SEAT_LABEL, get
from ansible.module_utils.provisioner.gpu.nvml import query_nvml
from ansible.module_utils.provisioner.gpu.processes import with_container_names
from ansible.module_utils.provisioner.gpu.use import computing, gpu_use
from ansible.module_utils.provisioner.lease.state import Card
from ansible.module_utils.provisioner.lease.tick import Seen
from ansible.module_utils.provisioner.seat.seat import NAME, Seat

SECONDS = 50  # for all of it; the next look is a minute after this one began


def observe(state_root: str, holders: Mapping[str, str]) -> dict[str, Any]:
    """Return what was seen, as JSON that `parse_seen` reads. `holders`: GPU -> the seat that has a lease of it."""
    running = running_containers(SEAT_LABEL)
    gpus = _gpus()
    found = {} if running is None else _wanted_seats(state_root, running)
    own = {name: wanted for name, wanted in found.items() if wanted.get("kind") == KIND}
    used = _used(own, running or {})
    return {
        "cards": {uuid: _card(uuid, gpu, holders.get(uuid))._asdict() for uuid, gpu in gpus.items()},
        "running": None if running is None else sorted(running),
        "idle": {seat: not used[seat] and _has_idle_gpus(wanted, gpus) for seat, wanted in own.items()},
        "own": {seat: [wanted["uid"], wanted["gpus"]] for seat, wanted in own.items()},
        "others": sorted(found.keys() - own.keys()),
        "used": sorted(uuid for uuid, gpu in gpus.items() if gpu.get("utilization") or computing(gpu)),
    }


def parse_seen(found: dict[str, Any]) -> Seen:
    """Return what was seen from the result of `observe`."""
    return Seen(
        cards={uuid: Card(**card) for uuid, card in found["cards"].items()},
        running=None if found["running"] is None else frozenset(found["running"]),
        idle=found["idle"],
        own={seat: (uid, tuple(gpus)) for seat, (uid, gpus) in found["own"].items()},
        others=frozenset(found["others"]),
        used=frozenset(found["used"]),
    )


def _gpus() -> dict[str, dict[str, Any]]:
    """Return the GPUs that the driver lists by UUID, none where it does not answer."""
    nvml = query_nvml()
    found = [] if "error" in nvml else with_container_names(nvml["gpus"])
    return {gpu["uuid"]: gpu for gpu in found if gpu.get("uuid")}


def _card(uuid: str, gpu: dict[str, Any], holder: str | None) -> Card:
    """Return whether a GPU has processes of others than the seat that holds it. They are named, and never killed."""
    if gpu["problems"]:
        return Card("unhealthy")
    if gpu["processes"] is None:
        return Card("unknown")
    others = [process for process in gpu["processes"] if process["kind"] == "compute" and not _is_of(process, holder)]
    if others:
        return Card("foreign", others[0]["pid"], others[0]["user"] or "")
    return Card("free" if holder or not gpu_use(uuid, gpu) else "foreign")


def _is_of(process: dict[str, Any], seat: str | None) -> bool:
    return seat is not None and process.get("seat") == seat


def _wanted_seats(state_root: str, running: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the running seats as their current orders have them, without those whose records are damaged."""
    found = {}
    for name in running:
        if NAME.fullmatch(name):
            seat = Seat(state_root, name)
            with contextlib.suppress(ProblemError):
                number = seat.current()
                if number:
                    found[name] = seat.order(number)["seat"]
    return found


def _used(own: Iterable[str], running: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[str]]:
    """Return a line for each use of these seats: programs of SSH sessions, and processor time."""
    pids = {seat: {container["Names"][0]: _pid(container) for container in running[seat]} for seat in own}
    return activity_by_seat(pids) if pids else {}


def _pid(container: dict[str, Any]) -> int:
    """Return the first process of a container; -1, which no process has, where the engine does not say: it is used."""
    try:
        found = get(f"/containers/{container['Id']}/json") or {}
        return int(found["State"]["Pid"]) or -1
    except (ProblemError, KeyError):
        return -1


def _has_idle_gpus(wanted: dict[str, Any], gpus: Mapping[str, dict[str, Any]]) -> bool:
    """Return whether the GPUs of a seat compute nothing now; where that is unknown, they do. Held memory is no use."""
    return all((gpus.get(uuid) or {}).get("utilization") == 0 for uuid in wanted["gpus"])
