"""GPUs by way of NVML, under PyTorch's names."""

import ctypes
import os
from functools import cache

from . import version

# CUDA's minor-version compatibility: the oldest driver branch of each major version.
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
TEXT = 96


@cache
def _nvml() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return None if library.nvmlInit_v2() else library


def _driver() -> int:
    """The driver's branch; 0 where there is none."""
    library, text = _nvml(), ctypes.create_string_buffer(TEXT)
    if library is None or library.nvmlSystemGetDriverVersion(text, TEXT):
        return 0
    return int(text.value.split(b".")[0])


def _handle(index: int) -> tuple[ctypes.CDLL, ctypes.c_void_p]:
    library, handle = _nvml(), ctypes.c_void_p()
    if library is None or library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)):
        raise RuntimeError("CUDA error: invalid device ordinal")
    return library, handle


def device_count() -> int:
    """The number of GPUs, of those that CUDA_VISIBLE_DEVICES names if it is set."""
    library, count = _nvml(), ctypes.c_uint()
    if library is None or library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        return 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return count.value if named is None else len(named.split(","))


def is_available() -> bool:
    return device_count() > 0 and _driver() >= OLDEST_DRIVER[int(version.cuda.split(".")[0])]


def init() -> None:
    if not _driver():
        raise RuntimeError("Found no NVIDIA driver on your system.")
    if not is_available():
        raise RuntimeError(f"The NVIDIA driver on your system is too old (found version {_driver()}).")


def get_device_name(index: int = 0) -> str:
    library, handle = _handle(index)
    text = ctypes.create_string_buffer(TEXT)
    library.nvmlDeviceGetName(handle, text, TEXT)
    return text.value.decode()


def get_device_capability(index: int = 0) -> tuple[int, int]:
    library, handle = _handle(index)
    major, minor = ctypes.c_int(), ctypes.c_int()
    library.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def get_arch_list() -> list[str]:
    return [f"sm_{architecture}" for architecture in version.architectures.split(",")]


def synchronize() -> None:
    init()


def run_kernel_on(device: str) -> None:
    """Refuses as PyTorch does where the build holds no code for the device. Code for x.y runs on x.z for z >= y."""
    if not device.startswith("cuda"):
        return
    init()
    major, minor = get_device_capability(int(device.partition(":")[2] or 0))
    built = [divmod(int(architecture), 10) for architecture in version.architectures.split(",")]
    if not any(major == built_major and minor >= built_minor for built_major, built_minor in built):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
