"""Facts of the GPUs from NVML, or the reason why NVML does not answer.

Each field is queried on its own: a GPU that is lost keeps its index, and does not hide the others. The MIG devices of a
card (GPU instances) follow it in the list: they have its index, and are numbered in `instance`.
"""

from __future__ import annotations

import pwd
import re
from pathlib import Path
from typing import Any, Callable, Iterable

from ansible.module_utils import pynvml as nvml
from ansible.module_utils.provisioner.base.command import run_in_child
from ansible.module_utils.provisioner.base.files import read
from ansible.module_utils.provisioner.base.problem import printable
from ansible.module_utils.provisioner.gpu.processes import container_id

SECONDS = 20  # NVML hangs on some broken cards

NO_PERMISSION, NO_SUCH, NOT_LOADED, NOT_FOUND, LOST, MISMATCH = 4, 6, 9, 12, 15, 18
UNSUPPORTED = {3, 13, 25}  # this GPU or this driver does not support the query; not an error
MOST_INSTANCES = 16  # of one card; the MIG User Guide has at most 7
MIG_UUID = re.compile(r"MIG-[0-9a-fA-F]+(-[0-9a-fA-F]+){4}")

REASONS = {
    NO_PERMISSION: "NVML: no permission to talk to the NVIDIA driver",
    NOT_LOADED: "the NVIDIA driver is installed, but its kernel module is not loaded",
    NOT_FOUND: "NVML library not found: no NVIDIA driver is installed",
    MISMATCH: "NVML: the driver's library and its kernel module differ in version",
}

MEMORY_V2 = 0x02000028  # nvmlMemory_v2 (nvml.h), since driver 510

# nvmlBrandType_t (nvml.h), in the words of NVIDIA_REQUIRE_CUDA
BRANDS = {
    1: "quadro",
    2: "tesla",
    3: "nvs",
    4: "grid",
    5: "geforce",
    6: "titan",
    7: "vapps",
    8: "vpc",
    9: "vcs",
    10: "vws",
    11: "cloudgaming",
    12: "quadrortx",
    13: "nvidiartx",
    14: "nvidia",
    15: "geforcertx",
    16: "titanrtx",
}


def query_nvml() -> dict[str, Any]:
    """Return `driver`, `cuda_driver` and `gpus`; or `error`, NVML's number (0: no answer), and `reason`."""
    try:
        return dict(run_in_child(_query, SECONDS))
    except TimeoutError:
        return {"error": 0, "reason": f"NVML did not answer within {SECONDS} s"}
    except ChildProcessError as error:
        return {"error": 0, "reason": f"the NVML query failed: {error}"}


def _query() -> dict[str, Any]:
    try:
        nvml.nvmlInit()
        return {
            "driver": _text(nvml.nvmlSystemGetDriverVersion()),
            "cuda_driver": _cuda(nvml.nvmlSystemGetCudaDriverVersion()),
            "gpus": [gpu for index in range(nvml.nvmlDeviceGetCount()) for gpu in _card(index)],
        }
    except nvml.NVMLError as error:
        return {"error": error.value, "reason": REASONS.get(error.value, f"NVML: {error}")}


def _cuda(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _text(value: Any) -> str:
    """Return a string; bindings of older drivers return bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


class _Query:
    """Calls of NVML about one GPU. An error is kept, and its value is None."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._faults: dict[int, str] = {}

    def __call__(self, call: Callable[..., Any], *arguments: Any, absent: int | None = None) -> Any:
        """Return the result of a call. The error `absent` says that there is nothing to be found."""
        try:
            return call(*arguments)
        except nvml.NVMLError as error:
            if error.value not in UNSUPPORTED and error.value != absent:
                self._faults[error.value] = str(error)
            return None

    @property
    def problems(self) -> list[dict[str, str]]:
        return [_problem(self._index, number, text) for number, text in sorted(self._faults.items())]


def _card(index: int) -> list[dict[str, Any]]:
    """Return the facts of a card, and of its MIG devices where MIG is on."""
    ask = _Query(index)
    handle = ask(nvml.nvmlDeviceGetHandleByIndex, index)
    if handle is None:
        return [{"index": index, "problems": ask.problems}]
    facts = {**_read_fields(ask, handle), "index": index}
    instances = _instances(ask, handle, facts) if facts["mig_enabled"] else []
    return [{**facts, "problems": ask.problems}, *instances]


def _instances(ask: _Query, card: Any, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the facts of the MIG devices of a card. The places of devices that were destroyed are empty."""
    places = range(min(ask(nvml.nvmlDeviceGetMaxMigDeviceCount, card) or 0, MOST_INSTANCES))
    found = [ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, card, place, absent=NO_SUCH) for place in places]
    handles = [handle for handle in found if handle is not None]
    return [_instance(number, handle, facts) for number, handle in enumerate(handles)]


def _instance(number: int, handle: Any, card: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a MIG device: it computes as its card does, and has memory and processes of its own."""
    ask = _Query(card["index"])
    uuid, memory = _text(ask(nvml.nvmlDeviceGetUUID, handle) or ""), _memory(ask, handle)
    facts = {
        **{name: card[name] for name in ("index", "brand", "compute_capability", "pci_bus_id")},
        "instance": number,
        "uuid": uuid if MIG_UUID.fullmatch(uuid) else None,
        "name": _text(ask(nvml.nvmlDeviceGetName, handle) or ""),
        "memory_total": memory.total if memory else None,
        "memory_used": memory.used if memory else None,
        "utilization": None,  # NVML measures it for the whole card alone
        "processes": _processes(ask, handle),
    }
    return {**facts, "problems": ask.problems + ([] if facts["uuid"] else [_unnamed(facts)])}


def _unnamed(instance: dict[str, Any]) -> dict[str, str]:
    return {
        "code": "mig_without_uuid",
        "what": f"{gpu_label(instance)} has no UUID of its own",
        "why": "a seat names its GPUs by UUID; drivers before 470 name a MIG device after its card and its number",
        "fix": "install driver 470 or newer",
    }


def count_cards(gpus: Iterable[dict[str, Any]]) -> int:
    """Return the number of cards in a list of GPUs, without their MIG devices."""
    return sum(gpu.get("instance") is None for gpu in gpus)


def gpu_label(gpu: dict[str, Any]) -> str:
    """Return how messages name a GPU: "GPU 0", or "GPU 0, MIG device 1"."""
    return f"GPU {gpu['index']}" + ("" if gpu.get("instance") is None else f", MIG device {gpu['instance']}")


def _read_fields(ask: Callable[..., Any], handle: Any) -> dict[str, Any]:
    capability = ask(nvml.nvmlDeviceGetCudaComputeCapability, handle)
    memory, pci = _memory(ask, handle), ask(nvml.nvmlDeviceGetPciInfo, handle)
    busy = ask(nvml.nvmlDeviceGetUtilizationRates, handle)
    mig, uuid = ask(nvml.nvmlDeviceGetMigMode, handle), ask(nvml.nvmlDeviceGetUUID, handle)
    return {
        "uuid": _text(uuid) if uuid else None,
        "name": _text(ask(nvml.nvmlDeviceGetName, handle) or ""),
        "brand": BRANDS.get(ask(nvml.nvmlDeviceGetBrand, handle), "unknown"),
        "compute_capability": f"{capability[0]}.{capability[1]}" if capability else None,
        "memory_total": memory.total if memory else None,
        "memory_used": memory.used if memory else None,
        "utilization": busy.gpu if busy else None,
        "pci_bus_id": _text(pci.busId).lower() if pci else None,
        "mig_enabled": bool(mig[0]) if mig else None,
        "processes": _processes(ask, handle),
    }


def _memory(ask: Callable[..., Any], handle: Any) -> Any:
    """Query memory with version 2 of the call: version 1 counts memory that the driver reserves as used."""
    return ask(nvml.nvmlDeviceGetMemoryInfo, handle, MEMORY_V2) or ask(nvml.nvmlDeviceGetMemoryInfo, handle)


def _processes(ask: Callable[..., Any], handle: Any) -> list[dict[str, Any]] | None:
    computing = ask(nvml.nvmlDeviceGetComputeRunningProcesses, handle)
    if computing is None:  # drivers before 510 have the older call only
        computing = ask(nvml.nvmlDeviceGetComputeRunningProcesses_v2, handle)
    if computing is None:
        return None
    drawing = ask(nvml.nvmlDeviceGetGraphicsRunningProcesses, handle) or []
    return [_process(p, "compute") for p in computing] + [_process(p, "graphics") for p in drawing]


def _process(process: Any, kind: str) -> dict[str, Any]:
    """Describe a process by the name of its command, without arguments, which may contain a secret."""
    folder = Path("/proc") / str(process.pid)
    return {
        "pid": process.pid,
        "kind": kind,
        "used_memory": process.usedGpuMemory,
        "user": _owner(folder),
        "command": printable(read(folder / "comm").strip()) or None,  # a program can set its own name
        "container": container_id(process.pid),
    }


def _owner(folder: Path) -> str | None:
    try:
        uid = folder.stat().st_uid
    except OSError:
        return None
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # the user exists in the image only, or not at all
        return f"uid {uid}"


def _problem(index: int, number: int, text: str) -> dict[str, str]:
    if number == LOST:
        return {
            "code": "gpu_lost",
            "what": f"GPU {index} is lost: it has fallen off the bus",
            "why": "the driver no longer reaches it; common causes are power, heat or a riser",
            "fix": "check `dmesg | grep -i xid` on the node, then reboot it; if the error persists, reseat the card",
        }
    return {
        "code": "gpu_error",
        "what": f"GPU {index}: NVML reports {text} ({number})",
        "why": "a GPU that cannot be queried is not used",
        "fix": "check `nvidia-smi -q` and `dmesg | grep -i nvrm` on the node",
    }
