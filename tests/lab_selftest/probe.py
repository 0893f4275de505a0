"""Call all functions of the stand-in library through the real pynvml; print JSON. Runs on the host and on nodes."""

import json
import sys
from collections.abc import Callable
from typing import Any

import pynvml as nvml


def ask(function: Callable[..., Any], *args: Any) -> Any:
    """Return the result of the call, or class and code of its NVML error."""
    try:
        return function(*args)
    except nvml.NVMLError as error:
        return [type(error).__name__, error.value]


def processes(function: Callable[..., Any], handle: Any) -> Any:
    found = ask(function, handle)
    return found if found and isinstance(found[0], str) else [[p.pid, p.usedGpuMemory >> 20] for p in found]


def mebibytes(memory: Any) -> Any:
    return memory if isinstance(memory, list) else [memory.total >> 20, memory.free >> 20, memory.used >> 20]


def instances(handle: Any) -> list[Any]:
    """Return name, UUID and memory of each MIG device."""
    found = (ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, i) for i in range(count_instances(handle)))
    return [
        one
        if isinstance(one, list)
        else [
            ask(nvml.nvmlDeviceGetName, one),
            ask(nvml.nvmlDeviceGetUUID, one),
            ask(nvml.nvmlDeviceGetMemoryInfo, one).total >> 20,
        ]
        for one in found
    ]


def count_instances(handle: Any) -> int:
    found = ask(nvml.nvmlDeviceGetMaxMigDeviceCount, handle)
    return found if isinstance(found, int) else 0


def gpu(index: int) -> dict[str, Any]:
    handle = ask(nvml.nvmlDeviceGetHandleByIndex, index)
    if isinstance(handle, list):
        return {"handle": handle}
    return {
        "name": ask(nvml.nvmlDeviceGetName, handle),
        "uuid": ask(nvml.nvmlDeviceGetUUID, handle),
        "brand": ask(nvml.nvmlDeviceGetBrand, handle),
        "architecture": ask(nvml.nvmlDeviceGetArchitecture, handle),
        "capability": ask(nvml.nvmlDeviceGetCudaComputeCapability, handle),
        "memory": mebibytes(ask(nvml.nvmlDeviceGetMemoryInfo, handle)),
        "memory_v2": mebibytes(ask(nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2)),
        "mig": ask(nvml.nvmlDeviceGetMigMode, handle),
        "bus": ask(lambda: nvml.nvmlDeviceGetPciInfo(handle).busId),
        "utilisation": ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
        "compute": processes(nvml.nvmlDeviceGetComputeRunningProcesses, handle),
        "graphics": processes(nvml.nvmlDeviceGetGraphicsRunningProcesses, handle),
        "instances": instances(handle),
        "board": ask(nvml.nvmlDeviceGetBoardId, handle),
    }


def main() -> None:
    started = ask(nvml.nvmlInit)
    if started:
        json.dump({"init": started}, sys.stdout)
        return
    count = ask(nvml.nvmlDeviceGetCount)
    system = {
        "driver": ask(nvml.nvmlSystemGetDriverVersion),
        "nvml": ask(nvml.nvmlSystemGetNVMLVersion),
        "cuda": ask(nvml.nvmlSystemGetCudaDriverVersion_v2),
        "gpus": [gpu(index) for index in range(count)] if isinstance(count, int) else count,
    }
    json.dump(system, sys.stdout)


if __name__ == "__main__":
    main()
