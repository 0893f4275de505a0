"""What NVML says of this node's GPUs, and why it says nothing where it does not.

Field by field: a card that is lost keeps its place and is no reason to lose the others.
"""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils import pynvml as nvml
from ansible.module_utils.provisioner.base.command import run_in_child
from ansible.module_utils.provisioner.base.files import read
from ansible.module_utils.provisioner.base.problem import printable
from ansible.module_utils.provisioner.gpu.processes import container_id

SECONDS = 20  # NVML hangs on some broken cards

NO_PERMISSION, NOT_LOADED, NOT_FOUND, LOST, MISMATCH = 4, 9, 12, 15, 18
UNSUPPORTED = {3, 13, 25}  # this card, or this driver, does not tell it: a fact, not a fault

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
    """`driver`, `cuda_driver`, `gpus`; or `error`, NVML's number (0: no answer), and `reason`."""
    try:
        return dict(run_in_child(_query, SECONDS))
    except TimeoutError:
        return {"error": 0, "reason": f"NVML did not answer within {SECONDS} s"}
    except ChildProcessError as error:
        return {"error": 0, "reason": f"NVML could not be asked: {error}"}


def _query() -> dict[str, Any]:
    try:
        nvml.nvmlInit()
        return {
            "driver": _text(nvml.nvmlSystemGetDriverVersion()),
            "cuda_driver": _cuda(nvml.nvmlSystemGetCudaDriverVersion()),
            "gpus": [_gpu(index) for index in range(nvml.nvmlDeviceGetCount())],
        }
    except nvml.NVMLError as error:
        return {"error": error.value, "reason": REASONS.get(error.value, f"NVML: {error}")}


def _cuda(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _text(value: Any) -> str:
    """Older drivers' bindings answer in bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _gpu(index: int) -> dict[str, Any]:
    faults: dict[int, str] = {}

    def ask(call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except nvml.NVMLError as error:
            if error.value not in UNSUPPORTED:
                faults[error.value] = str(error)
            return None

    handle = ask(nvml.nvmlDeviceGetHandleByIndex, index)
    facts = {} if handle is None else _read_fields(ask, handle)
    problems = [_problem(index, number, text) for number, text in sorted(faults.items())]
    return {**facts, "index": index, "problems": problems}


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
    """Where the driver can, without what it keeps for itself: the first version of the call counts that as used."""
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
    """The command's name alone: its arguments may hold a secret."""
    folder = Path("/proc") / str(process.pid)
    return {
        "pid": process.pid,
        "kind": kind,
        "used_memory": process.usedGpuMemory,
        "user": _owner(folder),
        "command": printable(read(folder / "comm").strip()) or None,  # a program may name itself as it likes
        "container": container_id(process.pid),
    }


def _owner(folder: Path) -> str | None:
    try:
        uid = folder.stat().st_uid
    except OSError:
        return None
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # the image knows a name for it, or nobody does
        return f"uid {uid}"


def _problem(index: int, number: int, text: str) -> dict[str, str]:
    if number == LOST:
        return {
            "code": "gpu_lost",
            "what": f"GPU {index} is lost: it has fallen off the bus",
            "why": "the driver no longer reaches it, so nothing can compute there; commonly power, heat or a riser",
            "fix": "see `dmesg | grep -i xid` on the node, then reboot it; if it comes back so, reseat the card",
        }
    return {
        "code": "gpu_error",
        "what": f"GPU {index}: NVML answers {text} ({number})",
        "why": "a card that cannot be asked cannot be counted on",
        "fix": "see `nvidia-smi -q` and `dmesg | grep -i nvrm` on the node",
    }
