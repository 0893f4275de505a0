"""gpu_check.py, which runs inside a seat, prints one line of JSON in every case. GPUs and torch are fakes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters.resources import templates
from tests.lab.engine import Engine
from tests.lab.gpus import HostGpu
from tests.playbooks.node_code import module_util

UUIDS = ["GPU-5a3fbe51-0a55-4b7a-9c62-54d5a8a1f3c0", "GPU-0f3c1a8a-5d45-629c-a74b-550a51be3f5a"]
PROFILE = "driver = 570.172.08\ncuda = 12080\n" + "".join(
    f"[gpu]\nname = A\ncc = 8.9\nuuid = {uuid}\n" for uuid in UUIDS
)
TORCH = """
import random, sys
from types import SimpleNamespace as Space
__version__, version = "2.8.0", Space(cuda="12.8")
cuda = Space(is_available=lambda: True, device_count=lambda: 2)
class Matrix:
    def __init__(self, value, device="cpu"): self.value, self.device = value, device
    def to(self, device): return Matrix(self.value, device)
    def cpu(self): return Matrix(self.value)
    def __matmul__(self, other): return Matrix(self.value * other.value, self.device)
def manual_seed(seed): random.seed(seed)
def rand(rows, columns): return Matrix(random.random() + 1)
def allclose(one, other, rtol, atol): return abs(one.value - other.value) < atol
"""


MIG_UUIDS = [f"MIG-5a3fbe51-0a55-4b7a-9c62-00000000000{number}" for number in range(2)]
MIG_PROFILE = f"driver = 570.172.08\ncuda = 12080\n[gpu]\nname = A\ncc = 9.0\nuuid = {UUIDS[0]}\nmig = 1\n" + "".join(
    f"instance = {uuid}:1g.10gb:9984\n" for uuid in MIG_UUIDS
)
# CUDA shows a process the MIG device that it names.
MIG_TORCH = f"""{TORCH}
import os
cuda.device_count = lambda: len(os.environ["CUDA_VISIBLE_DEVICES"].split(","))
"""
ONE_WRONG = """
Matrix.cpu = lambda self: Matrix(self.value * (2 if os.environ["CUDA_VISIBLE_DEVICES"].endswith("1") else 1))
"""


def check(folder: Path, torch: str | None, *spared: str, **environment: str) -> dict[str, Any]:
    """Run the check. `torch`: the source of a fake torch module; None: an image without torch."""
    if torch is not None:
        (folder / "torch.py").write_text(torch)
    env = {**os.environ, "PYTHONPATH": str(folder), **environment}
    with (templates() / "gpu_check.py").open() as program:
        command = [sys.executable, "-", *spared]
        done = subprocess.run(command, stdin=program, env=env, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    assert set(found) == {"method", "ok", "uuids", "skipped", "detail"}
    return found


# Stands for ctypes: NVML lists the GPUs of DRIVER_UUIDS, and each call of CUDA is a line of the file LOG.
LIBRARIES = """
import os
class Value:
    def __init__(self, value=0): self.value = value
c_uint = c_void_p = Value
def byref(value): return value
def create_string_buffer(size): return Value()
UUIDS = os.environ["DRIVER_UUIDS"].split(",")
def log(line):
    with open(os.environ["LOG"], "a") as file: file.write(line + "\\n")
def set_value(to, value): to.value = value
class CDLL:
    def __init__(self, name): pass
    def nvmlInit_v2(self): return 0
    def nvmlDeviceGetCount_v2(self, count): return set_value(count, len(UUIDS)) or 0
    def nvmlDeviceGetHandleByIndex_v2(self, index, card): return set_value(card, index.value) or 0
    def nvmlDeviceGetMaxMigDeviceCount(self, card, places): return 3
    def nvmlDeviceGetUUID(self, card, text, size): return set_value(text, UUIDS[card.value].encode()) or 0
    def cuInit(self, flags): return log("cuInit") or int(os.environ.get("CUINIT", "0"))
"""
# CUDA shows a process the GPUs that it names. A process that has initialised CUDA cannot fork and use it.
SELECTIVE_TORCH = f"""{TORCH}
import ctypes, os
ctypes.log("import torch")
def visible(): return os.environ.get("CUDA_VISIBLE_DEVICES", os.environ["DRIVER_UUIDS"]).split(",")
cuda.device_count = lambda: len(visible())
def to(self, device):
    ctypes.log("compute " + visible()[int(device[5:])])
    return Matrix(self.value, device)
Matrix.to = to
"""


@pytest.fixture
def listed(tmp_path: Path) -> dict[str, str]:
    """Return the environment in which a program sees the two GPUs of UUIDS, by stand-ins for ctypes."""
    (tmp_path / "ctypes.py").write_text(LIBRARIES)
    return {"DRIVER_UUIDS": ",".join(UUIDS), "LOG": str(tmp_path / "log")}


@pytest.mark.parametrize(
    ("spared", "result", "calls"),
    [
        (
            [],
            {"method": "torch", "detail": "torch 2.8.0 computes on 2 GPUs"},
            ["import torch", *(f"compute {uuid}" for uuid in UUIDS for _ in range(2))],
        ),
        (
            UUIDS[:1],
            {"method": "torch", "detail": "torch 2.8.0 computes on 1 GPUs; CUDA initialises"},
            ["import torch", f"compute {UUIDS[1]}", f"compute {UUIDS[1]}", "cuInit"],
        ),
        (UUIDS, {"method": "driver", "detail": "CUDA initialises"}, ["cuInit"]),
    ],
)
def test_nothing_is_computed_on_gpus_that_others_use(
    tmp_path: Path, listed: dict[str, str], spared: list[str], result: dict[str, str], calls: list[str]
) -> None:
    found = check(tmp_path, SELECTIVE_TORCH, *spared, **listed)
    assert found == {"ok": True, "uuids": UUIDS, "skipped": spared, **result}
    assert (tmp_path / "log").read_text().splitlines() == calls


def test_each_mig_device_that_others_use_is_left_out(tmp_path: Path, listed: dict[str, str]) -> None:
    listed["DRIVER_UUIDS"] = ",".join(MIG_UUIDS)
    found = check(tmp_path, SELECTIVE_TORCH, MIG_UUIDS[0], **listed)
    assert (found["ok"], found["skipped"]) == (True, MIG_UUIDS[:1])
    assert found["detail"] == "torch 2.8.0 computes on 1 MIG devices; CUDA initialises"
    computed = (tmp_path / "log").read_text().splitlines()[1:-1]
    assert set(computed) == {f"compute {MIG_UUIDS[1]}"}


@pytest.mark.parametrize("spared", [UUIDS[:1], UUIDS])
def test_a_cuda_that_does_not_initialise_is_a_failure_on_gpus_that_others_use(
    tmp_path: Path, listed: dict[str, str], spared: list[str]
) -> None:
    found = check(tmp_path, SELECTIVE_TORCH, *spared, CUINIT="803", **listed)
    assert (found["ok"], found["detail"]) == (False, "Fault: cuInit answered 803")


def test_a_gpu_that_does_not_compute_is_reported_beside_one_that_others_use(
    tmp_path: Path, listed: dict[str, str]
) -> None:
    wrong = f"{SELECTIVE_TORCH}\nMatrix.cpu = lambda self: Matrix(self.value * 2)\n"
    found = check(tmp_path, wrong, UUIDS[0], **listed)
    assert (found["ok"], found["detail"]) == (False, f"Fault: {UUIDS[1]}: Fault: cuda:0 multiplies wrongly")


def test_without_torch_the_check_of_the_driver_is_complete_whoever_uses_the_gpus(
    tmp_path: Path, listed: dict[str, str]
) -> None:
    found = check(tmp_path, None, *UUIDS, **listed)
    assert (found["method"], found["ok"], found["skipped"]) == ("driver", True, [])


@pytest.fixture
def gpus(testbed: Engine, tmp_path: Path) -> dict[str, str]:
    """Return the environment in which a program sees the two GPUs of PROFILE."""
    (tmp_path / "gpus.conf").write_text(PROFILE)
    return {**HostGpu(testbed.root).env(), "FAKE_NVML_CONF": str(tmp_path / "gpus.conf")}


@pytest.mark.lab
def test_torch_computes_on_every_gpu(tmp_path: Path, gpus: dict[str, str]) -> None:
    found = check(tmp_path, TORCH, **gpus)
    detail = "torch 2.8.0 computes on 2 GPUs"
    assert found == {"method": "torch", "ok": True, "uuids": UUIDS, "skipped": [], "detail": detail}


@pytest.mark.lab
@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ("cuda.is_available = lambda: False", "Fault: torch 2.8.0 (CUDA 12.8) sees no GPU"),
        ("cuda.device_count = lambda: 1", "Fault: torch sees 1 GPUs, the driver 2"),
        (
            "Matrix.cpu = lambda self: Matrix(self.value * (2 if self.device == 'cuda:1' else 1))",
            "cuda:1 multiplies wrongly",
        ),
        ("Matrix.to = lambda self, device: 1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("def", "SyntaxError"),
    ],
)
def test_a_gpu_or_torch_that_does_not_compute_is_reported(
    tmp_path: Path, gpus: dict[str, str], change: str, detail: str
) -> None:
    found = check(tmp_path, f"{TORCH}\n{change}\n", **gpus)
    assert (found["method"], found["ok"], found["uuids"]) == ("torch", False, UUIDS)
    assert detail in found["detail"]


@pytest.mark.lab
@pytest.mark.parametrize(
    ("change", "ok", "detail"),
    [
        ("", True, "torch 2.8.0 computes on 2 MIG devices"),
        (ONE_WRONG, False, f"Fault: {MIG_UUIDS[1]}: Fault: cuda:0 multiplies wrongly"),
        ("Matrix.to = lambda self, device: os._exit(7)", False, f"Fault: {MIG_UUIDS[0]}: the process crashed"),
    ],
)
def test_each_mig_device_is_checked_alone(
    tmp_path: Path, gpus: dict[str, str], change: str, ok: bool, detail: str
) -> None:
    (tmp_path / "gpus.conf").write_text(MIG_PROFILE)
    found = check(tmp_path, MIG_TORCH + change, **gpus)
    assert found == {"method": "torch", "ok": ok, "uuids": MIG_UUIDS, "skipped": [], "detail": detail}


@pytest.mark.lab
@pytest.mark.parametrize(("profile", "uuids"), [(PROFILE, UUIDS), (MIG_PROFILE, MIG_UUIDS)])
def test_the_check_of_drift_lists_the_same_gpus(
    tmp_path: Path, gpus: dict[str, str], profile: str, uuids: list[str]
) -> None:
    (tmp_path / "gpus.conf").write_text(profile)
    command = [sys.executable, "-c", module_util("seat.drift").GPU_SCRIPT]
    assert json.loads(subprocess.check_output(command, env=os.environ | gpus)) == uuids


@pytest.mark.lab
def test_output_of_torch_does_not_precede_the_result(tmp_path: Path, gpus: dict[str, str]) -> None:
    assert check(tmp_path, f"import os\nprint('hello')\nos.write(1, b'from C')\n{TORCH}", **gpus)["ok"]


@pytest.mark.lab
def test_without_torch_the_driver_is_checked(tmp_path: Path, gpus: dict[str, str]) -> None:
    found = check(tmp_path, None, **gpus)
    assert (found["method"], found["ok"], found["uuids"]) == ("driver", True, UUIDS)


@pytest.mark.lab
@pytest.mark.parametrize(("function", "error"), [("nvmlInit", 18), ("nvmlDeviceGetCount", 999)])
def test_an_error_of_the_driver_is_reported_with_its_function(
    tmp_path: Path, gpus: dict[str, str], function: str, error: int
) -> None:
    (tmp_path / "gpus.conf").write_text(f"fail.{function} = {error}\n{PROFILE}")
    found = check(tmp_path, TORCH, **gpus)
    assert (found["ok"], found["uuids"]) == (False, [])
    assert found["detail"] == f"Fault: {function}_v2 answered {error}"


@pytest.mark.lab
def test_a_driver_without_gpus_is_a_failure(tmp_path: Path, gpus: dict[str, str]) -> None:
    (tmp_path / "gpus.conf").write_text("driver = 570.172.08\ncuda = 12080\n")
    found = check(tmp_path, TORCH, **gpus)
    assert (found["ok"], found["detail"]) == (False, "Fault: the driver names no GPU")


def test_a_machine_without_a_driver_is_a_failure_and_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    found = check(tmp_path, TORCH, LD_LIBRARY_PATH=str(tmp_path))
    assert (found["method"], found["ok"], found["uuids"]) == ("torch", False, [])
    assert found["detail"].startswith("OSError")
