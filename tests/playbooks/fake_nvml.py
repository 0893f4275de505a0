"""A fake of pynvml with the GPUs that a test describes; the errors are those of pynvml."""

from collections.abc import Callable
from typing import Any

import pynvml


class FakeNvml:
    """NVML with the given GPUs. `fails` maps a call to the error that it raises; constants are those of pynvml."""

    def __init__(self, cards: list[dict[str, Any]], **fails: int) -> None:
        self._cards = cards
        self._fails = fails

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            return getattr(pynvml, name)
        return lambda *arguments: self._answer(name, *arguments)

    def _answer(self, name: str, *arguments: Any) -> Any:
        card = arguments[0] if arguments and isinstance(arguments[0], dict) else {}
        if code := {**self._fails, **card.get("fails", {})}.get(name):
            raise pynvml.NVMLError(code)
        answers: dict[str, Callable[..., Any]] = {
            "nvmlInit": lambda: None,
            "nvmlSystemGetDriverVersion": lambda: "570.172.08",
            "nvmlSystemGetCudaDriverVersion": lambda: 12080,
            "nvmlDeviceGetCount": lambda: len(self._cards),
            "nvmlDeviceGetHandleByIndex": self._handle,
            "nvmlDeviceGetMaxMigDeviceCount": lambda card: len(card.get("mig", ())),
            "nvmlDeviceGetMigDeviceHandleByIndex": self._mig_device,
        }
        return answers[name](*arguments) if name in answers else card.get(name, _CARD[name])

    def _handle(self, index: int) -> dict[str, Any]:
        if code := self._cards[index].get("lost"):
            raise pynvml.NVMLError(code)
        return self._cards[index]

    def _mig_device(self, card: dict[str, Any], place: int) -> dict[str, Any]:
        device: dict[str, Any] | None = card["mig"][place]
        if device is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return device


class Plain:
    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def a_gpu(uuid: str, index: int = 0, **over: Any) -> dict[str, Any]:
    """Return the facts of an idle GPU as the node code reports them."""
    facts = {"memory_total": 24 << 30, "memory_used": 300 << 20, "utilization": 0, "processes": [], "problems": []}
    return {"uuid": uuid, "index": index, **facts, **over}


def a_process(pid: int, kind: str = "compute", **over: Any) -> dict[str, Any]:
    facts = {"used_memory": 2 << 30, "user": "li", "command": "python", "container": None}
    return {"pid": pid, "kind": kind, **facts, **over}


_CARD: dict[str, Any] = {
    "nvmlDeviceGetUUID": "GPU-00000001-0000-0000-0000-000000000000",
    "nvmlDeviceGetName": b"NVIDIA GeForce RTX 4090",
    "nvmlDeviceGetBrand": 5,
    "nvmlDeviceGetCudaComputeCapability": (8, 9),
    "nvmlDeviceGetMemoryInfo": Plain(total=24 << 30, used=1 << 30),
    "nvmlDeviceGetUtilizationRates": Plain(gpu=7, memory=3),
    "nvmlDeviceGetPciInfo": Plain(busId="00000000:0A:00.0"),
    "nvmlDeviceGetMigMode": [0, 0],
    "nvmlDeviceGetComputeRunningProcesses": [],
    "nvmlDeviceGetComputeRunningProcesses_v2": [],
    "nvmlDeviceGetGraphicsRunningProcesses": [],
}
