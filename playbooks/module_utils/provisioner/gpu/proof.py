"""The full check of a GPU, in which a program computes on it: on which GPUs it can be made, and where it was made.

It is not made on a GPU that others use: it would slow down their work, or find no memory. On a GPU that seats share it
is made once for each image, driver and boot. Idle GPUs that a seat has for itself are checked fully each time.

STATE_ROOT/node/gpu_proof.json    the full checks that passed since the boot
STATE_ROOT/node/gpu_check.lock    held during a full check of shared GPUs
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Any, Iterable, Iterator, NamedTuple

from ansible.module_utils.provisioner.base.files import read, write_atomic
from ansible.module_utils.provisioner.base.host import boot_id
from ansible.module_utils.provisioner.gpu.nvml import query_nvml
from ansible.module_utils.provisioner.gpu.processes import with_container_names
from ansible.module_utils.provisioner.gpu.use import computing, gpu_use, may_run_in

SCHEMA = "provisioner/gpu_proof/1"
MOST = 1000  # proofs that are kept, the latest ones
PROVED = "a program has computed on it with this image since the boot"


class GpuChoice(NamedTuple):
    """On which GPUs of a seat no program may compute now, and why.

    `driver`: its version, empty where NVML does not answer. `proved`: GPUs that were checked fully before.
    """

    driver: str
    proved: set[str]
    spared: dict[str, str]  # UUID -> reason


@contextlib.contextmanager
def chosen_gpus(order: dict[str, Any]) -> Iterator[GpuChoice]:
    """Choose the GPUs of the order's seat to compute on.

    If they are shared, no other job computes on shared GPUs meanwhile: it waits, and finds the proof of this one.
    """
    wanted = order["seat"]
    if not (wanted["gpus"] and wanted.get("shared")):
        yield _choose(order)
        return
    with _locked(_folder(order) / "gpu_check.lock") as lock:
        choice = _choose(order)
        if choice.spared.keys() >= set(wanted["gpus"]):
            fcntl.flock(lock, fcntl.LOCK_UN)
        yield choice


def _choose(order: dict[str, Any]) -> GpuChoice:
    wanted = order["seat"]
    if not wanted["gpus"]:
        return GpuChoice("", set(), {})
    nvml = query_nvml()
    driver = nvml.get("driver") or ""
    proved = proved_gpus(order, driver)
    known = {gpu.get("uuid"): gpu for gpu in with_container_names(nvml.get("gpus", []))}
    spared = {}
    for uuid in wanted["gpus"]:
        use = [PROVED] if wanted.get("shared") and uuid in proved else _use_by_others(uuid, known.get(uuid), wanted)
        if use:
            spared[uuid] = "; ".join(use)
    return GpuChoice(driver, proved, spared)


def proved_gpus(order: dict[str, Any], driver: str) -> set[str]:
    """Return the GPUs on which a program with the image of the order has computed with this driver since the boot."""
    image = order["image"]["reference"]
    return {str(entry.get("gpu")) for entry in _proofs(order, driver) if entry.get("image") == image}


def _use_by_others(uuid: str, gpu: dict[str, Any] | None, wanted: dict[str, Any]) -> list[str]:
    """Return who else uses the GPU. Unknown use counts on a GPU that seats share, and not on one of the seat's own."""
    if wanted.get("shared"):
        return gpu_use(uuid, gpu, lambda process: process.get("seat") != wanted["name"])

    def is_of_others(process: dict[str, Any]) -> bool:
        return not may_run_in(wanted["name"], process)

    return gpu_use(uuid, gpu, is_of_others) if any(map(is_of_others, computing(gpu or {}))) else []


def record_proof(order: dict[str, Any], driver: str, uuids: Iterable[str]) -> None:
    """Record that a program with the image of the order has computed on these GPUs. Not if it cannot be written."""
    if not (driver and boot_id()):
        return
    key = {"image": order["image"]["reference"], "driver": driver, "boot": boot_id()}
    added = [{"gpu": uuid, **key} for uuid in sorted(uuids)]
    with contextlib.suppress(OSError), _locked(_folder(order) / "gpu_proof.lock"):
        kept = [entry for entry in _proofs(order, driver) if entry not in added]
        text = json.dumps({"schema": SCHEMA, "proofs": [*kept, *added][-MOST:]})
        write_atomic(_folder(order) / "gpu_proof.json", text)


def _proofs(order: dict[str, Any], driver: str) -> list[dict[str, Any]]:
    """Return the proofs with this driver since the boot, none from a damaged file."""
    try:
        found = [dict(entry) for entry in json.loads(read(_folder(order) / "gpu_proof.json"))["proofs"]]
    except (ValueError, KeyError, TypeError):
        return []
    now = (driver, boot_id())
    return [entry for entry in found if all(now) and (entry.get("driver"), entry.get("boot")) == now]


def _folder(order: dict[str, Any]) -> Path:
    return Path(order["state_root"]) / "node"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(str(path), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)
