# ruff: noqa: INP001  (a file of a seat)
"""Do the GPUs of this container compute? Prints one line of JSON: method, ok, uuids, detail. Always ends with 0.

Method `torch`: PyTorch multiplies matrices on every GPU that the driver names, and the results are held against the
CPU's. Method `driver`, where the image has no PyTorch: NVML names the GPUs and CUDA initialises. The MIG devices of a
card count instead of the card, and each is checked in a process of its own: a process can use only one of them.

Arguments are UUIDs of GPUs on which nothing may be computed, because others use them. They are only listed, CUDA
initialises, and the line names them in `skipped`; if these are all GPUs, its method is `driver`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import sys
from typing import Any

UUID_BYTES = 96  # NVML_DEVICE_UUID_V2_BUFFER_SIZE
SIZE = 64


class Fault(Exception):  # noqa: N818  (it ends this check)
    pass


def call(library: Any, name: str, *arguments: object) -> None:
    code = getattr(library, name)(*arguments)
    if code != 0:
        raise Fault(f"{name} answered {code}")


def devices_of(nvml: Any, index: int) -> list[ctypes.c_void_p]:
    card = ctypes.c_void_p()
    call(nvml, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(card))
    return mig_devices(nvml, card) or [card]


def mig_devices(nvml: Any, card: ctypes.c_void_p) -> list[ctypes.c_void_p]:
    places, found = ctypes.c_uint(), []
    # Drivers before 450 do not have the function.
    if not hasattr(nvml, "nvmlDeviceGetMaxMigDeviceCount"):
        return []
    if nvml.nvmlDeviceGetMaxMigDeviceCount(card, ctypes.byref(places)) != 0:
        return []
    for place in range(places.value):
        device = ctypes.c_void_p()
        if nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, ctypes.c_uint(place), ctypes.byref(device)) == 0:
            found.append(device)
    return found


def uuid_of(nvml: Any, device: ctypes.c_void_p) -> str:
    text = ctypes.create_string_buffer(UUID_BYTES)
    call(nvml, "nvmlDeviceGetUUID", device, text, ctypes.c_uint(UUID_BYTES))
    return text.value.decode("ascii")


def driver_uuids() -> list[str]:
    nvml, count = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_uint()
    call(nvml, "nvmlInit_v2")
    call(nvml, "nvmlDeviceGetCount_v2", ctypes.byref(count))
    return [uuid_of(nvml, device) for index in range(count.value) for device in devices_of(nvml, index)]


def check_driver() -> str:
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "NVML answers; this container has no libcuda to try"
    call(cuda, "cuInit", ctypes.c_uint(0))
    return "CUDA initialises"


def check_device(torch: Any, index: int) -> None:
    torch.manual_seed(index)
    left, right = torch.rand(SIZE, SIZE), torch.rand(SIZE, SIZE)
    device = f"cuda:{index}"
    result = (left.to(device) @ right.to(device)).cpu()
    # TF32 keeps 10 bits of the mantissa, and a sum of 64 products of numbers in [0, 1) is near 16.
    if not torch.allclose(result, left @ right, rtol=1e-2, atol=1e-1):
        raise Fault(f"{device} multiplies wrongly")


def check_torch(uuids: list[str], spared: list[str]) -> str:
    import torch  # noqa: PLC0415  (an image without PyTorch is checked otherwise)

    wanted = [uuid for uuid in uuids if uuid not in spared]
    if any(uuid.startswith("MIG-") for uuid in uuids):
        for uuid in wanted:
            check_alone(torch, [uuid])
        return f"torch {torch.__version__} computes on {len(wanted)} MIG devices"
    if spared:
        check_alone(torch, wanted)
    else:
        check_visible(torch, len(uuids))
    return f"torch {torch.__version__} computes on {len(wanted)} GPUs"


def check_visible(torch: Any, count: int) -> None:
    if not torch.cuda.is_available():
        raise Fault(f"torch {torch.__version__} (CUDA {torch.version.cuda}) sees no GPU")
    if torch.cuda.device_count() != count:
        raise Fault(f"torch sees {torch.cuda.device_count()} GPUs, the driver {count}")
    for index in range(count):
        check_device(torch, index)


def check_alone(torch: Any, uuids: list[str]) -> None:
    """Check in a forked process that sees these GPUs only; torch is imported, but CUDA is not in use before it."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(uuids)
        try:
            check_visible(torch, len(uuids))
            answer = "ok"
        except BaseException as error:  # noqa: BLE001  (a broken torch may even try to leave)
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, answer.encode()[:4096])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read().decode(errors="replace") or "the process crashed"
    os.waitpid(child, 0)
    if answer != "ok":
        raise Fault(f"{', '.join(uuids)}: {answer}")


def check(method: str, uuids: list[str], spared: list[str]) -> str:
    uuids += driver_uuids()
    if not uuids:
        raise Fault("the driver names no GPU")
    if method == "driver" or set(spared) >= set(uuids):
        return check_driver()
    computed = check_torch(uuids, spared)
    # CUDA initialises last: a process that is forked after that cannot use it.
    return f"{computed}; {check_driver()}" if spared else computed


def report(spared: list[str]) -> dict[str, object]:
    method = "torch" if importlib.util.find_spec("torch") else "driver"
    uuids: list[str] = []
    try:
        detail, ok = check(method, uuids, spared), True
    except BaseException as error:  # noqa: BLE001  (a broken torch may even try to leave)
        detail, ok = f"{type(error).__name__}: {error}", False
    skipped = [uuid for uuid in uuids if uuid in spared and method == "torch"]
    if skipped and skipped == uuids:
        method = "driver"
    return {"method": method, "ok": ok, "uuids": uuids, "skipped": skipped, "detail": detail}


def main() -> None:
    # What libraries print while they load must not come before the one line.
    stdout = os.dup(1)
    os.dup2(2, 1)
    result = report(sys.argv[1:])
    with os.fdopen(stdout, "w", encoding="utf-8") as out:
        out.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
