"""Facts of the GPUs from NVML, or the reason why NVML does not answer.

Each field is queried on its own: a GPU that is lost keeps its index, and does not hide the others.
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
UNSUPPORTED = {3, 13, 25}  # this GPU or this driver does not support the query; not an error

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
            "gpus": [_gpu(index) for index in range(nvml.nvmlDeviceGetCount())],
        }
    except nvml.NVMLError as error:
        return {"error": error.value, "reason": REASONS.get(error.value, f"NVML: {error}")}


def _cuda(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _text(value: Any) -> str:
    """Return a string; bindings of older drivers return bytes."""
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
