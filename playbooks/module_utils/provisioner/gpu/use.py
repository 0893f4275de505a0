"""Who uses a GPU, in one line each. Unknown use counts as use."""

from __future__ import annotations

from typing import Any, Callable

from ansible.module_utils.provisioner.gpu.nvml import gpu_label

# A GPU that draws a desktop, or keeps driver state, holds less; the smallest CUDA context needs about this.
IDLE_BYTES = 500 << 20


def gpu_use(
    uuid: str, gpu: dict[str, Any] | None, counts: Callable[[dict[str, Any]], bool] = lambda _: True
) -> list[str]:
    """Return one line for each process that computes on the GPU, or one for use by a process that is not listed.

    `gpu` are its facts, None when the driver does not list it. `counts` says which of the processes count.
    """
    if gpu is None:
        return [f"the driver does not list {uuid}: its use is unknown"]
    where, processes = gpu_label(gpu), gpu["processes"]
    if processes is None or gpu["problems"]:
        reasons = "; ".join(problem["what"] for problem in gpu["problems"])
        return [f"{where}: its use is unknown{reasons and f' ({reasons})'}"]
    counted = [_describe(process) for process in computing(gpu) if counts(process)]
    return [f"{where}: {use}" for use in counted or _unlisted_use(gpu)]


def computing(gpu: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the processes that compute on the GPU, of those that the driver lists."""
    return [process for process in gpu.get("processes") or () if process["kind"] == "compute"]


def may_run_in(seat: str, process: dict[str, Any]) -> bool:
    """Return whether a process runs in a container of the seat, or where it runs is unknown."""
    if process["container"]:
        return bool(process.get("seat", seat) == seat)
    return process["user"] is None  # /proc does not have it: it is hidden, or has ended


def _describe(process: dict[str, Any]) -> str:
    """Return how messages name a process, such as "pid 4242 python of li in ml-anna-jupyter-1"."""
    words = [f"pid {process['pid']}", process["command"]]
    words += [process["user"] and f"of {process['user']}", process["container"] and f"in {process['container']}"]
    return " ".join(word for word in words if word)


def _unlisted_use(gpu: dict[str, Any]) -> list[str]:
    """Find use by processes that the driver does not list. Desktop processes may hold memory and compute a little."""
    held = (gpu["memory_used"] or 0) - sum(process["used_memory"] or 0 for process in gpu["processes"])
    if held > IDLE_BYTES:
        return [f"{held / 1e9:.1f} GB are in use by a process that the driver does not list"]
    if gpu["utilization"] and not gpu["processes"]:
        return [f"{gpu['utilization']} % utilization by a process that the driver does not list"]
    return []
