"""Facts of driver and GPUs: NVML, compared with the kernel module and the PCI bus."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from ansible.module_utils.provisioner.base.files import read
from ansible.module_utils.provisioner.gpu.nvml import (
    MISMATCH,
    NO_PERMISSION,
    NOT_FOUND,
    NOT_LOADED,
    count_cards,
    query_nvml,
)

NVIDIA = "0x10de"
DISPLAY = "0x03"  # PCI base class "display controller"

FAULTS = {
    NO_PERMISSION: (
        "nvml_no_permission",
        "check owner and mode of /dev/nvidia* on the node; the probe needs to be root or in their group",
    ),
    NOT_LOADED: ("driver_not_loaded", "run `modprobe nvidia` on the node and read `dmesg | grep -i nvrm`"),
    MISMATCH: ("driver_mismatch", "reboot the node, or stop what uses the GPUs and reload the kernel module"),
}


def nvidia_facts() -> tuple[dict[str, Any], dict[str, str], list[dict[str, str]]]:
    """Return the facts, the reasons for facts that are absent, and problems."""
    nvml = query_nvml()
    version = read(_root("PROC", "/proc") / "driver/nvidia/version")
    facts = {
        "driver": nvml.get("driver") or loaded_driver(version),
        "cuda_driver": nvml.get("cuda_driver"),
        "kernel_module": flavour(version),
        "gpus": nvml.get("gpus", []),
        "pci_gpus": pci_gpus(_root("SYS", "/sys") / "bus/pci/devices"),
    }
    return facts, _absent(facts, nvml.get("reason")), _problems(facts, nvml)


def _root(name: str, default: str) -> Path:
    """Return the folder that stands for /proc or /sys; the test bed sets another one."""
    return Path(os.environ.get(f"PROVISIONER_{name}_ROOT", default))


def loaded_driver(version: str) -> str | None:
    """Return the driver version in the text of /proc/driver/nvidia/version, which exists even when NVML fails."""
    found = re.search(r"Kernel Module\D*?(?:x86_64|aarch64)?\s+(\d+(?:\.\d+)+)", version)
    return found.group(1) if found else None


def flavour(version: str) -> str | None:
    """Return whether the kernel module is open or proprietary, None when it is not loaded."""
    if not version:
        return None
    return "open" if "Open Kernel Module" in version else "proprietary"


def pci_gpus(devices: Path) -> int | None:
    """Return the number of NVIDIA display devices on the PCI bus, without virtual functions (SR-IOV).

    None when the bus is not visible.
    """
    try:
        found = list(devices.iterdir())
    except OSError:
        return None
    return sum(_is_gpu(device) for device in found)


def _is_gpu(device: Path) -> bool:
    ours = read(device / "vendor").strip() == NVIDIA and read(device / "class").startswith(DISPLAY)
    return ours and not (device / "physfn").exists()


def _absent(facts: dict[str, Any], reason: str | None) -> dict[str, str]:
    reasons = {
        "driver": reason,
        "cuda_driver": reason,
        "gpus": reason or "the driver is loaded, but NVML lists no GPU",
        "kernel_module": "no NVIDIA kernel module is loaded: /proc/driver/nvidia/version does not exist",
        "pci_gpus": "sysfs does not show the PCI bus",
    }
    return {name: str(why) for name, why in reasons.items() if facts[name] is None or facts[name] == []}


def _problems(facts: dict[str, Any], nvml: dict[str, Any]) -> list[dict[str, str]]:
    on_bus = facts["pci_gpus"] or 0
    if "error" not in nvml:
        listed = count_cards(facts["gpus"])
        return [_missing(on_bus, listed)] if on_bus > listed else []
    if nvml["error"] == NOT_FOUND and not on_bus:
        return []
    if nvml["error"] == NOT_FOUND:
        code, fix = "no_driver", "install the NVIDIA driver: `provision doctor` names the versions that fit"
    else:
        code, fix = FAULTS.get(
            nvml["error"], ("nvml_fails", "read `dmesg | grep -i nvrm` on the node; a reboot may help")
        )
    why = f"no program can use a GPU on this node; the PCI bus has {on_bus} NVIDIA GPUs"
    return [{"code": code, "what": nvml["reason"], "why": why, "fix": fix}]


def _missing(on_bus: int, listed: int) -> dict[str, str]:
    return {
        "code": "gpu_missing",
        "what": f"the PCI bus has {on_bus} NVIDIA GPUs, the driver lists {listed}",
        "why": "a driver lists only GPUs that its version and the flavour of its kernel module support",
        "fix": "read `dmesg | grep -i nvrm` on the node: it names the GPU that the driver ignores, and why",
    }
