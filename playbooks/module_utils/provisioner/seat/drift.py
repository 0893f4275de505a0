"""Drift: differences between a committed seat and what runs, without a rollout. Reported, never repaired."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterable, Mapping, Optional

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.docker.engine import client_environment
from ansible.module_utils.provisioner.gpu.nvml import gpu_label
from ansible.module_utils.provisioner.gpu.use import computing
from ansible.module_utils.provisioner.seat.compose import exec_python
from ansible.module_utils.provisioner.seat.identity import host_key
from ansible.module_utils.provisioner.seat.journal import Journal
from ansible.module_utils.provisioner.seat.precheck import container_on_port
from ansible.module_utils.provisioner.seat.seat import Seat

GPU_SCRIPT_SECONDS = 20
# Runs in the container and lists the GPUs that NVML shows there, of a card that is split its MIG devices. torch would
# take seconds, and GPU memory.
GPU_SCRIPT = """
import ctypes, json
nvml = ctypes.CDLL("libnvidia-ml.so.1")
def call(name, *arguments):
    code = getattr(nvml, name)(*arguments)
    if code:
        raise SystemExit(f"{name} answered {code}")
def instances(card):
    places, found = ctypes.c_uint(), []
    if not getattr(nvml, "nvmlDeviceGetMaxMigDeviceCount", lambda *_: 1)(card, ctypes.byref(places)):
        for place in range(places.value):
            device = ctypes.c_void_p()
            if not nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, ctypes.c_uint(place), ctypes.byref(device)):
                found.append(device)
    return found
count = ctypes.c_uint()
call("nvmlInit_v2")
call("nvmlDeviceGetCount_v2", ctypes.byref(count))
found = []
for index in range(count.value):
    card = ctypes.c_void_p()
    call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(card))
    for device in instances(card) or [card]:
        text = ctypes.create_string_buffer(96)
        call("nvmlDeviceGetUUID", device, text, ctypes.c_uint(96))
        found.append(text.value.decode())
print(json.dumps(found))
"""

Found = Mapping[str, Optional[Dict[str, Any]]]  # service -> the engine's description of its container


def find_drift(
    seat: Seat,
    order: dict[str, Any],
    found: Found,
    gpus: Iterable[dict[str, Any]],
    active: list[dict[str, Any]],
) -> list[dict[str, str]]:
    """Return a problem for each difference, none during a switch.

    `order` is that of the current generation, `gpus` are the GPU facts of the node, `active` are all of its containers
    that are not stopped, as the engine lists them.
    """
    journal = Journal(seat.folder, "")
    if journal.open_switch():
        return []
    running = {service: container for service, container in found.items() if container}
    by_uuid = {gpu["uuid"]: gpu for gpu in gpus if gpu.get("uuid")}
    held = [by_uuid[uuid] for uuid in order["seat"]["gpus"] if uuid in by_uuid]
    return [
        *_edited_files(seat, order),
        *(
            problem
            for service, container in running.items()
            for problem in _wrong_container(seat, order, service, container)
        ),
        *_changed_host_key(seat, journal),
        *_foreign_on_ports(order["seat"], active),
        *_foreign_on_gpus(order["seat"], running, held),
        *_lost_gpus(order["seat"], running, len(held)),
    ]


def _edited_files(seat: Seat, order: dict[str, Any]) -> list[dict[str, str]]:
    on_disk, rendered = seat.files(seat.current()), order["files"]
    names = sorted(name for name in {*on_disk, *rendered} if on_disk.get(name, "") != rendered.get(name, ""))
    folder = seat.generation(seat.current())
    return [_problem("files_edited", f"{seat.name}: edited in {folder}: {', '.join(names)}")] if names else []


def _wrong_container(
    seat: Seat, order: dict[str, Any], service: str, container: dict[str, Any]
) -> list[dict[str, str]]:
    config = container.get("Config") or {}
    image, labels = config.get("Image"), config.get("Labels") or {}
    file = labels.get("com.docker.compose.project.config_files")
    wanted, problems = str(seat.generation(seat.current()) / "compose.yaml"), []
    if image and image != order["image"]["reference"]:
        what = f"{seat.name}: {service} runs {image}, not the image of generation {seat.current()}"
        problems.append(_problem("image_drift", what))
    if file and file != wanted:
        problems.append(_problem("compose_drift", f"{seat.name}: {service} was started from {file}, not from {wanted}"))
    return problems


def _changed_host_key(seat: Seat, journal: Journal) -> list[dict[str, str]]:
    known, now = journal.host_key(), host_key(seat)
    if not known or known == now:
        return []
    what = f"{seat.name}: its SSH host key is {now or 'missing'}; the committed key is {known}"
    fix = "SSH clients will warn; find out who changed the key, and restore it from a backup if there is one"
    return [_problem("host_key_changed", what, fix)]


def _foreign_on_ports(wanted: dict[str, Any], active: list[dict[str, Any]]) -> list[dict[str, str]]:
    places = {(wanted["binds"][service], port) for service, port in wanted["ports"].items()}
    holders = {(port, container_on_port(active, address, port)) for address, port in places}
    return [
        _problem("foreign_on_port", f"{wanted['name']}: its port {port} is used by the container {holder}", STOP_IT)
        for port, holder in sorted(holders, key=str)
        if holder not in (None, wanted["name"])
    ]


def _foreign_on_gpus(wanted: dict[str, Any], running: Found, held: list[dict[str, Any]]) -> list[dict[str, str]]:
    ours = {container["Name"].lstrip("/") for container in running.values() if container}
    return [
        _problem("foreign_on_gpu", f"{wanted['name']}: its {gpu_label(gpu)} is used by {_describe(process)}", STOP_IT)
        for gpu in held
        for process in computing(gpu)
        if process["container"] not in ours and not (wanted.get("shared") and process.get("seat"))
    ]


def _describe(process: dict[str, Any]) -> str:
    where = f" in the container {process['container']}" if process["container"] else ""
    return f"pid {process['pid']} of {process['user'] or 'an unknown user'}{where}"


def _lost_gpus(wanted: dict[str, Any], running: Found, on_node: int) -> list[dict[str, str]]:
    """Check one running container: a daemon-reload takes the GPUs from all containers of a node."""
    alive = [(name, c) for name, c in running.items() if c and c["State"]["Status"] == "running"]
    if not alive or not wanted["gpus"] or on_node < len(wanted["gpus"]):
        return []
    service, container = alive[0]
    seen, detail = _visible_gpus(container["Id"], wanted)
    if seen == sorted(wanted["gpus"]):
        return []
    what = f"{wanted['name']}: {service} sees {', '.join(seen) or 'no GPU'} ({detail}); the node has all of its GPUs"
    return [_problem("gpu_lost_inside", what, RECREATE)]


def _visible_gpus(container: str, wanted: dict[str, Any]) -> tuple[list[str], str]:
    """Return the UUIDs that NVML shows in the container, and the error message when there are none."""
    argv = exec_python(container, f"{wanted['uid']}:{wanted['gid']}")
    try:
        ran = run(argv, GPU_SCRIPT_SECONDS, text=GPU_SCRIPT, env=client_environment())
    except ProblemError as error:
        return [], str(error)
    try:
        return sorted(str(uuid) for uuid in json.loads(ran.out)), "listed by NVML"
    except (ValueError, TypeError, RecursionError):
        return [], ran.message[-200:]


STOP_IT = "find its owner and stop it, or change the seat (seat.ports, the GPUs of the node)"
RECREATE = (
    "`systemctl daemon-reload` takes the GPUs from containers that got them by NVIDIA's legacy hook: when the seat"
    " is idle, take it down and roll it out again; with CDI this does not happen"
)


def _problem(code: str, what: str, fix: str = "`provision rollout` restores the locked state") -> dict[str, str]:
    fault = ProblemError(code, what, "it was changed outside of provisioner", fix)
    return fault.problem
