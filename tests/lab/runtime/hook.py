#!/usr/bin/env python3
"""A stand-in for NVIDIA's container hook, for machines whose GPUs are only described.

dockerd offers the device driver `nvidia` when a program named nvidia-container-runtime-hook is on its PATH at start,
and runs it before each container that asks for GPUs. Like NVIDIA's own in its legacy mode, it holds the image's
requirements (NVIDIA_REQUIRE_*) against driver and GPUs, and then makes the chosen GPUs, and no others, visible inside.

Its files lie beside it: ../lib/libnvidia-ml.so.1, ../etc/fake-nvml.conf, ../bin/nvidia-smi. Its messages are written
after the real ones from memory.
"""

import json
import operator
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "lib/libnvidia-ml.so.1"
PROFILE = ROOT / "etc/fake-nvml.conf"
SMI = ROOT / "bin/nvidia-smi"

BRANDS = {
    1: "quadro",
    2: "tesla",
    3: "nvs",
    4: "grid",
    5: "geforce",
    6: "titan",
    12: "quadrortx",
    13: "nvidiartx",
    14: "nvidia",
}
COMPARISONS = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
MISMATCH = 18


@dataclass(frozen=True)
class Section:
    """A profile's head, or one of its [gpu] sections."""

    text: str

    def get(self, key: str, default: str = "") -> str:
        found = re.findall(rf"(?m)^[ \t]*{re.escape(key)}[ \t]*=[ \t]*(.*?)[ \t]*$", self.text)
        return found[-1] if found else default


def fail(text: str) -> NoReturn:
    sys.exit(f"nvidia-container-cli: {text}")


def read_profile() -> tuple[Section, list[Section]]:
    if not LIBRARY.exists():
        missing = "cannot open shared object file: no such file or directory"
        fail(f"initialization error: load library failed: {LIBRARY.name}: {missing}")
    if not PROFILE.exists():
        fail("initialization error: nvml error: driver not loaded")
    head, *gpus = (Section(text) for text in re.split(r"(?m)^[ \t]*\[gpu\][ \t]*$", PROFILE.read_text()))
    if head.get("fail.nvmlInit") == str(MISMATCH):
        fail("initialization error: nvml error: driver/library version mismatch")
    return head, gpus


def chosen(wanted: str, gpus: list[Section]) -> list[int]:
    """Indices of the GPUs that NVIDIA_VISIBLE_DEVICES names by index or UUID, by that of a MIG device, too."""
    if wanted in ("all", "none"):
        return list(range(len(gpus))) if wanted == "all" else []
    names = {name: index for index, gpu in enumerate(gpus) for name in (str(index), gpu.get("uuid"), *instances(gpu))}
    for name in wanted.split(","):
        if name not in names:
            fail(f"device error: {name}: unknown device")
    return list(dict.fromkeys(names[name] for name in wanted.split(",")))


def instances(gpu: Section) -> list[str]:
    """UUIDs of the MIG devices of a card."""
    return re.findall(r"(?m)^[ \t]*instance[ \t]*=[ \t]*(MIG-[^:]+)", gpu.text)


def with_instances(wanted: str, gpu: Section) -> str:
    """A card as a container with these devices sees it: of its MIG devices, those that are named."""
    hidden = [] if wanted == "all" else [uuid for uuid in instances(gpu) if uuid not in wanted.split(",")]
    return re.sub(rf"(?m)^[ \t]*instance[ \t]*=[ \t]*({'|'.join(hidden)}):.*$", "", gpu.text) if hidden else gpu.text


def requirements(env: dict[str, str]) -> list[str]:
    if env.get("NVIDIA_DISABLE_REQUIRE", "").lower() in ("1", "true"):
        return []
    stated = [value for name, value in env.items() if name.startswith("NVIDIA_REQUIRE_")]
    if "CUDA_VERSION" in env and "NVIDIA_REQUIRE_CUDA" not in env:
        stated.append("cuda>=" + ".".join(env["CUDA_VERSION"].split(".")[:2]))
    return stated


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def holds(condition: str, head: Section, gpu: Section) -> bool:
    name, sign, wanted = re.split(r"(>=|<=|!=|=|>|<)", condition, maxsplit=1)
    if name == "brand":
        return bool(COMPARISONS[sign](BRANDS.get(int(gpu.get("brand", "5")), "unknown"), wanted))
    cuda = int(head.get("cuda"))
    have = {"cuda": f"{cuda // 1000}.{cuda % 1000 // 10}", "driver": head.get("driver"), "arch": gpu.get("cc")}[name]
    # `driver<471` speaks of the branch: the longer version is cut to what the condition states.
    return bool(COMPARISONS[sign](numbers(have)[: len(numbers(wanted))], numbers(wanted)))


def satisfied(requirement: str, head: Section, gpu: Section) -> bool:
    """In a requirement a space means "or", a comma "and"."""
    alternatives = (word.split(",") for word in requirement.split())
    return any(all(holds(condition, head, gpu) for condition in conditions) for conditions in alternatives)


def check_requirements(env: dict[str, str], head: Section, gpus: list[Section]) -> None:
    advice = "please update your driver to a newer version, or use an earlier cuda container"
    for requirement in requirements(env):
        if not all(satisfied(requirement, head, gpu) for gpu in gpus):
            fail(f"requirement error: unsatisfied condition: {requirement.split(' ')[0]}, {advice}")


def put(root: Path, target: str, source: Path | str, mode: int) -> None:
    path = root / target
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, Path):
        shutil.copyfile(source, path)
    else:
        path.write_text(source)
    path.chmod(mode)


def make_devices(pid: int, root: Path, indices: list[int]) -> None:
    # From inside the container's mount namespace: its /dev is a file system of its own.
    names = [root / "dev" / name for name in ["nvidiactl", *(f"nvidia{index}" for index in indices)]]
    script = "; ".join(f"[ -e '{name}' ] || mknod -m 666 '{name}' c 1 3" for name in names)
    subprocess.run(["nsenter", "-t", str(pid), "-m", "sh", "-c", script], check=True)


def given_by_cdi(spec: dict[str, Any]) -> list[int]:
    """Return the GPUs that the engine added by CDI; the image's requirements are not checked then."""
    paths = (device["path"] for device in spec["linux"].get("devices", []))
    return [int(found[1]) for path in paths if (found := re.fullmatch(r"/dev/nvidia(\d+)", path))]


def given_by_variable(env: dict[str, str], head: Section, gpus: list[Section]) -> list[int]:
    indices = chosen(env["NVIDIA_VISIBLE_DEVICES"], gpus)
    check_requirements(env, head, [gpus[index] for index in indices])
    return indices


def prestart(state: dict[str, Any], *, cdi: bool) -> None:
    spec = json.loads((Path(state["bundle"]) / "config.json").read_text())
    env = dict(entry.split("=", 1) for entry in spec["process"].get("env", []) if "=" in entry)
    if not cdi and env.get("NVIDIA_VISIBLE_DEVICES", "") in ("", "void"):
        return
    head, gpus = read_profile()
    indices = given_by_cdi(spec) if cdi else given_by_variable(env, head, gpus)
    wanted = "all" if cdi else env["NVIDIA_VISIBLE_DEVICES"]
    root = Path(state["bundle"]) / spec["root"]["path"]  # an absolute path replaces the bundle's
    put(root, "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1", LIBRARY, 0o644)
    put(root, "usr/bin/nvidia-smi", SMI, 0o755)
    put(
        root,
        "etc/fake-nvml.conf",
        "[gpu]".join([head.text, *(with_instances(wanted, gpus[index]) for index in indices)]),
        0o644,
    )
    make_devices(state["pid"], root, indices)


if __name__ == "__main__":
    if sys.argv[1:] in (["prestart"], ["cdi"]):
        prestart(json.load(sys.stdin), cdi=sys.argv[1] == "cdi")
