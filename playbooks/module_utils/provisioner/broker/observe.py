"""What the broker looks at once a minute: its GPUs, which seats run, and whether anybody uses them."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

from ansible.module_utils.provisioner.base.files import read
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.docker.activity import activity_by_seat, read_samples, uses_processors
from ansible.module_utils.provisioner.docker.containers import running_containers
from ansible.module_utils.provisioner.docker.engine import SEAT_LABEL, get
from ansible.module_utils.provisioner.docker.kernels import ID, kernel_list, kernel_use
from ansible.module_utils.provisioner.gpu.nvml import query_nvml
from ansible.module_utils.provisioner.gpu.processes import with_container_names
from ansible.module_utils.provisioner.gpu.use import computing, gpu_use
from ansible.module_utils.provisioner.lease.state import Card
from ansible.module_utils.provisioner.lease.tick import Seen
from ansible.module_utils.provisioner.seat.compose import SERVICES
from ansible.module_utils.provisioner.seat.seat import NAME, SELF_SERVICE, Seat

JUPYTER = "jupyter"  # the service whose health says whether kernels run code
SERVICE = "com.docker.compose.service"  # a label of a container
KERNEL_FILE = re.compile(rf"/kernel-({ID.pattern})\.json")  # in the command of a kernel's process
SECONDS = 50  # for all of it; the next look is a minute after this one began


def observe(state_root: str, holders: Mapping[str, str], samples: Sequence[Any]) -> dict[str, Any]:
    """Return what was seen, as JSON that `parse_seen` reads. `holders`: GPU -> the seat that has a lease of it.

    `samples`: those of the look before, for the processor time of seats.
    """
    running = running_containers(SEAT_LABEL)
    gpus = _gpus()
    found = {} if running is None else _wanted_seats(state_root, running)
    own = {name: wanted for name, wanted in found.items() if wanted.get("kind") == SELF_SERVICE}
    described = {seat: {_service(one): _describe(one) for one in (running or {})[seat]} for seat in own}
    used, new_samples = _used(described, samples)
    return {
        "cards": {uuid: _card(uuid, gpu, holders.get(uuid))._asdict() for uuid, gpu in gpus.items()},
        "running": None if running is None else sorted(seat for seat in running if _is_complete(running[seat])),
        "idle": {seat: not used[seat] and _has_idle_gpus(wanted, gpus) for seat, wanted in own.items()},
        "own": {seat: [wanted["uid"], wanted["gpus"]] for seat, wanted in own.items()},
        "others": sorted(found.keys() - own.keys()),
        "used": sorted(uuid for uuid, gpu in gpus.items() if gpu.get("utilization") or computing(gpu)),
        "samples": new_samples,
        "kernels": {
            seat: kernel_list(services.get(JUPYTER), _kernel_memory(seat, gpus.values()))
            for seat, services in described.items()
        },
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
        kernels=found["kernels"],
    )


def _gpus() -> dict[str, dict[str, Any]]:
    """Return the GPUs that the driver lists by UUID, none where it does not answer."""
    nvml = query_nvml()
    found = [] if "error" in nvml else with_container_names(nvml["gpus"])
    return {gpu["uuid"]: gpu for gpu in found if gpu.get("uuid")}


def _card(uuid: str, gpu: dict[str, Any], holder: str | None) -> Card:
    """Return whether a GPU has processes of others than the seat that holds it. They are named, and never killed.

    A card that is split into MIG devices cannot be leased itself: a seat with it would see none of them, or all.
    """
    if gpu["problems"] or gpu.get("mig_enabled"):
        return Card("unhealthy")
    if gpu["processes"] is None:
        return Card("unknown")
    others = [process for process in gpu["processes"] if process["kind"] == "compute" and not _is_of(process, holder)]
    if others:
        return Card("foreign", others[0]["pid"], others[0]["user"] or "")
    return Card("free" if holder or not gpu_use(uuid, gpu) else "foreign")


def _is_of(process: dict[str, Any], seat: str | None) -> bool:
    return seat is not None and process.get("seat") == seat


def _is_complete(containers: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether all services of a seat run: the engine starts none of a leased seat again."""
    return {container["Labels"].get(SERVICE) for container in containers} >= set(SERVICES)


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


def _used(
    described: Mapping[str, dict[str, dict[str, Any]]], samples: Sequence[Any]
) -> tuple[dict[str, bool], list[Any]]:
    """Return for each of these seats whether it is in use, whatever its GPUs do, and the samples for the next look.

    Use is a program of an SSH session, a kernel that runs code, or processor time. `described`: seat -> service -> the
    engine's description of its container.
    """
    pids = {seat: {name: _pid(one) for name, one in found.items()} for seat, found in described.items()}
    sessions, latest = activity_by_seat(pids)
    kept = read_samples(samples, latest)
    used = {
        seat: bool(sessions[seat] or kernel_use(found.get(JUPYTER)) or uses_processors(kept, seat))
        for seat, found in described.items()
    }
    return used, list(kept)


def _kernel_memory(seat: str, gpus: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Return the GPU memory of each kernel of a seat in bytes, by its id, without programs that it has started."""
    found: dict[str, int] = {}
    for process in (process for gpu in gpus for process in gpu["processes"] or ()):
        command = KERNEL_FILE.search(read(Path(f"/proc/{process['pid']}/cmdline"))) if _is_of(process, seat) else None
        if command:
            found[command[1]] = found.get(command[1], 0) + (process["used_memory"] or 0)
    return found


def _service(container: dict[str, Any]) -> str:
    return str(container["Labels"].get(SERVICE) or container["Id"])


def _describe(container: dict[str, Any]) -> dict[str, Any]:
    """Return the engine's full description of a container, nothing where it does not answer."""
    try:
        return get(f"/containers/{container['Id']}/json") or {}
    except ProblemError:
        return {}


def _pid(described: dict[str, Any]) -> int:
    """Return the first process of a container; -1, which no process has, where the engine does not say: it is used."""
    try:
        return int(described["State"]["Pid"]) or -1
    except KeyError:
        return -1


def _has_idle_gpus(wanted: dict[str, Any], gpus: Mapping[str, dict[str, Any]]) -> bool:
    """Return whether the GPUs of a seat compute nothing now; where that is unknown, they do."""
    return all(_is_idle(uuid, gpus.get(uuid) or {}) for uuid in wanted["gpus"])


def _is_idle(uuid: str, gpu: dict[str, Any]) -> bool:
    """Return whether a GPU computes nothing. Held memory is no use; in a MIG device it is.

    The driver measures the use of a card only, and not that of its MIG devices.
    """
    if gpu.get("instance") is not None:
        return not gpu_use(uuid, gpu)
    return gpu.get("utilization") == 0
