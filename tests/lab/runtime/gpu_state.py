#!/usr/bin/env python3
"""Puts a machine into the state that a profile describes. On a node: gpu_state.py PROFILE NODE_NAME.

Of a profile's keys these are for the machine itself; fake_nvml.c knows the others.

    state  = ok          ok, none (no driver installed) or unloaded (installed, its kernel module not loaded)
    module = open        the flavour of the kernel module: open or proprietary
    loaded = 570.133.07  version of the loaded kernel module, where it differs from the library's
    pci_extra = 1        graphics cards on the PCI bus that the driver does not know of
    toolkit = 1.17.8     version of the container toolkit; none: not installed
    cdi = 1              the toolkit has written a CDI specification of the cards
    device, class        in a [gpu] section: what sysfs says of the card
    instance = 1g.10gb:9984  in a [gpu] section: a MIG device; its UUID is made, too

Cards in [gpu] sections are on the PCI bus whatever the state. UUIDs that the profile leaves out are made from the
machine's name and the index, so each machine's differ and they survive a reboot.
"""

import hashlib
import itertools
import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

BUILT = "Thu Jul 17 12:00:00 UTC 2025"
OPEN = f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {{}}  Release Build  (dvs-builder@U22-I3)  {BUILT}"
PROPRIETARY = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {{}}  {BUILT}"
COMPILER = "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14+deb12u1)"


@dataclass(frozen=True)
class Profile:
    head: str
    gpus: list[str]

    @property
    def state(self) -> str:
        return value(self.head, "state", "ok")

    @property
    def loaded_version(self) -> str:
        return value(self.head, "loaded", value(self.head, "driver", ""))


@dataclass(frozen=True)
class Places:
    """Where a machine's description goes; `proc` and `sys` stand for /proc and /sys."""

    conf: Path
    proc: Path
    sys: Path

    @property
    def version(self) -> Path:
        return self.proc / "driver/nvidia/version"

    @property
    def module(self) -> Path:
        return self.sys / "module/nvidia/version"


def parse(text: str) -> Profile:
    head, *gpus = re.split(r"(?m)^[ \t]*\[gpu\][ \t]*$", text)
    return Profile(head, gpus)


def value(text: str, key: str, default: str) -> str:
    found = re.findall(rf"(?m)^[ \t]*{re.escape(key)}[ \t]*=[ \t]*(.*?)[ \t]*$", text)
    return str(found[-1]) if found else default


def uuid(seed: str) -> str:
    digits = hashlib.md5(seed.encode(), usedforsecurity=False).hexdigest()
    return "GPU-" + "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def with_uuids(profile: Profile, machine: str) -> str:
    made = (f"\nuuid = {uuid(f'{machine}/{index}')}" for index in range(len(profile.gpus)))
    named = [gpu if value(gpu, "uuid", "") else f"{line}{gpu}" for gpu, line in zip(profile.gpus, made, strict=True)]
    return "[gpu]".join([profile.head, *(with_instance_uuids(gpu, machine, i) for i, gpu in enumerate(named))])


def with_instance_uuids(gpu: str, machine: str, index: int) -> str:
    count = itertools.count()

    def named(line: re.Match[str]) -> str:
        return f"{line[1]}MIG-{uuid(f'{machine}/{index}/{next(count)}').removeprefix('GPU-')}:"

    return re.sub(r"(?m)^([ \t]*instance[ \t]*=[ \t]*)(?!MIG-)", named, gpu)


def write(path: Path, text: str) -> None:
    """Programs see the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    beside.replace(path)


def describe(profile: Profile, machine: str, places: Places) -> None:
    describe_pci(profile, places.sys / "bus/pci/devices")
    if profile.state == "ok":
        line = OPEN if value(profile.head, "module", "open") == "open" else PROPRIETARY
        write(places.version, f"{line.format(profile.loaded_version)}\n{COMPILER}\n")
        write(places.module, f"{profile.loaded_version}\n")
        write(places.conf, with_uuids(profile, machine))
    else:
        for path in (places.conf, places.version, places.module):
            path.unlink(missing_ok=True)


def describe_pci(profile: Profile, devices: Path) -> None:
    shutil.rmtree(devices, ignore_errors=True)
    devices.mkdir(parents=True)
    unknown = range(int(value(profile.head, "pci_extra", "0")))
    cards = [*profile.gpus, *(f"bus = 00000000:{0xC0 + index:02X}:00.0" for index in unknown)]
    for index, card in enumerate(cards):
        bus = value(card, "bus", f"00000000:{index + 1:02X}:00.0")
        folder = devices / bus[4:].lower()  # NVML writes eight digits of domain, sysfs four
        write(folder / "vendor", "0x10de\n")
        write(folder / "device", value(card, "device", "0x2684") + "\n")
        write(folder / "class", value(card, "class", "0x030000") + "\n")


# ---- on a node only ----

PARTS = Path("/usr/lib/lab/gpu")
LIBRARY = Path("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1")
NODE = Places(conf=Path("/etc/fake-nvml.conf"), proc=Path("/run/fake-proc"), sys=Path("/run/fake-sys"))
TOOLS = {"nvidia-ctk": "NVIDIA Container Toolkit CLI version {}", "nvidia-container-cli": "cli-version: {}"}
CDI = Path("/etc/cdi/nvidia.yaml")
HOOK = "nvidia-container-runtime-hook"


def install(link: Path, part: Path | None) -> None:
    link.unlink(missing_ok=True)
    if part:
        link.symlink_to(part)


def install_driver(*, installed: bool) -> None:
    install(LIBRARY, PARTS / "lib" / LIBRARY.name if installed else None)
    install(Path("/usr/bin/nvidia-smi"), PARTS / "bin/nvidia-smi" if installed else None)


def has_own_toolkit() -> bool:
    """A package brought it, so it is not ours to install or to remove; and so is its CDI specification."""
    return Path("/var/lib/dpkg/info/nvidia-container-toolkit.list").exists()


def install_toolkit(version: str) -> None:
    """Without the hook on its PATH a node's engine offers no GPUs."""
    install(Path("/usr/bin") / HOOK, None if version == "none" else PARTS / "bin" / HOOK)
    for name, line in TOOLS.items():
        tool = Path("/usr/bin") / name
        tool.unlink(missing_ok=True)
        if version != "none":
            write(tool, f"#!/bin/sh\necho '{line.format(version)}'\n")
            tool.chmod(0o755)


def cdi_specification(uuids: list[str]) -> dict[str, object]:
    """As nvidia-ctk writes it: a device for each index, for each UUID, and one for all. The hook does the rest.

    It cannot tell the MIG devices of a card apart by the card's device, so they have no CDI names here.
    """
    nodes = [{"path": f"/dev/nvidia{index}"} for index in range(len(uuids))]
    groups = {"all": nodes, **{name: [nodes[i]] for i, uuid in enumerate(uuids) for name in (str(i), uuid)}}
    devices = [{"name": name, "containerEdits": {"deviceNodes": group}} for name, group in groups.items()]
    hook = {"hookName": "prestart", "path": f"/usr/bin/{HOOK}", "args": [HOOK, "cdi"]}
    edits = {"env": ["NVIDIA_VISIBLE_DEVICES=void"], "hooks": [hook]}
    return {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": devices, "containerEdits": edits}


def make_devices(count: int) -> None:
    for path in Path("/dev").glob("nvidia*"):
        path.unlink()
    for name in ["nvidiactl", *(f"nvidia{index}" for index in range(count))] if count else []:
        os.mknod(f"/dev/{name}", 0o020666, os.makedev(1, 3))  # what /dev/null is
        Path(f"/dev/{name}").chmod(0o666)


def main(text: str, machine: str) -> None:
    profile = parse(text)
    describe(profile, machine, NODE)
    install_driver(installed=profile.state != "none")
    make_devices(len(profile.gpus) if profile.state == "ok" else 0)
    if has_own_toolkit():
        return
    install_toolkit(value(profile.head, "toolkit", "none" if profile.state == "none" else "1.17.8"))
    CDI.unlink(missing_ok=True)
    if profile.state == "ok" and value(profile.head, "cdi", "0") == "1":
        write_cdi(CDI)


def write_cdi(path: Path) -> None:
    uuids = [value(gpu, "uuid", "") for gpu in parse(NODE.conf.read_text()).gpus]
    write(path, json.dumps(cdi_specification(uuids), indent=2))  # JSON is YAML


if __name__ == "__main__":
    # As nvidia-ctk of the stand-in package calls it, or as a node does when it starts.
    if sys.argv[1:3] == ["cdi", "generate"]:
        write_cdi(Path(next(word for word in sys.argv if word.startswith("--output=")).partition("=")[2]))
    else:
        main(Path(sys.argv[1]).read_text(), sys.argv[2])
