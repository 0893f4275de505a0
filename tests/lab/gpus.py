"""Simulated GPUs: stand-in libraries, profiles, and the GPUs of this machine."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.lab.host import HERE, content_hash, run
from tests.lab.runtime import gpu_state

SOURCES = (HERE / "nvml", HERE / "runtime")
PROFILES = HERE / "profiles"
HOOK = "nvidia-container-runtime-hook"
# format-truncation: a value in a profile that is too long is cut on purpose.
CFLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-format-truncation")


@dataclass(frozen=True)
class Runtimes:
    """OCI runtimes for an engine without CAP_SYS_RESOURCE, and the hook with which it offers GPUs."""

    plain: Path
    nvidia: Path
    hook: Path


@dataclass(frozen=True)
class HostGpu:
    """The GPUs that programs on this machine and containers on the outer engine see."""

    root: Path

    @property
    def library(self) -> Path:
        return parts(self.root) / "lib/libnvidia-ml.so.1"

    @property
    def places(self) -> gpu_state.Places:
        folder = parts(self.root)
        return gpu_state.Places(conf=folder / "etc/fake-nvml.conf", proc=folder / "proc", sys=folder / "sys")

    def env(self) -> dict[str, str]:
        """Return the environment in which a program sees these GPUs."""
        return {
            "LD_LIBRARY_PATH": str(self.library.parent),
            "FAKE_NVML_CONF": str(self.places.conf),
            "PROVISIONER_PROC_ROOT": str(self.places.proc),
            "PROVISIONER_SYS_ROOT": str(self.places.sys),
        }

    def set_profile(self, text: str) -> None:
        gpu_state.describe(gpu_state.parse(text), "host", self.places)


def profile_text(name: str) -> str:
    return (PROFILES / f"{name}.conf").read_text()


def parts(root: Path) -> Path:
    return root / "gpu"


def host_runtimes(root: Path) -> Runtimes:
    folder = parts(root) / "bin"
    return Runtimes(plain=folder / "lab-runc", nvidia=folder / "nvidia-container-runtime", hook=folder / HOOK)


def build_parts(root: Path) -> Path:
    """Compile and collect the stand-ins in one folder (bin, lib) if their inputs changed; return the folder."""
    folder, inputs = parts(root), content_hash(SOURCES, *CFLAGS)
    stamp = folder / "inputs"
    if not (stamp.exists() and stamp.read_text() == inputs):
        _compile(folder)
        _gather(folder / "bin")
        stamp.write_text(inputs)
    return folder


def _compile(folder: Path) -> None:
    for name in ("bin", "lib", "etc"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    soname = "libnvidia-ml.so.1"
    library = ("-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", folder / "lib" / soname)
    run("gcc", *CFLAGS, *library, HERE / "nvml/fake_nvml.c", "-lpthread")
    run("gcc", *CFLAGS, "-o", folder / "bin/nvidia-smi", HERE / "nvml/nvidia_smi.c", "-ldl")


def _gather(folder: Path) -> None:
    runtime = HERE / "runtime"
    shutil.copy(runtime / "hook.py", folder / HOOK)
    for name in ("lab-runc", "fix_spec.py", "gpu_state.py"):
        shutil.copy(runtime / name, folder / name)
    nvidia = folder / "nvidia-container-runtime"
    nvidia.unlink(missing_ok=True)
    nvidia.symlink_to("lab-runc")
