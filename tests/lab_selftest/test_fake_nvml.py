"""The stand-in for NVML, called through the real pynvml on this machine and on a node."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml
import pytest

from tests.lab.bed import Lab
from tests.lab.engine import Engine
from tests.lab.gpus import HostGpu, profile_text
from tests.lab.node import Node

pytestmark = [pytest.mark.lab, pytest.mark.long("bed")]

PROBE = Path(__file__).with_name("probe.py")
Probe = Callable[[str], dict[str, Any]]

ONE = """\
driver = 570.172.08
cuda = 12080
[gpu]
name = NVIDIA GeForce RTX 4090
uuid = GPU-11111111-2222-3333-4444-555555555555
bus = 00000000:01:00.0
brand = 5
cc = 8.9
memory_mib = 24564
used_mib = 1000
reserved_mib = 500
util = 37
proc = 4242:900:python
proc = 4343:50
gfx = 900:50:Xorg
"""


@pytest.fixture
def probe(testbed: Engine, tmp_path: Path) -> Probe:
    """Function that returns the answers of pynvml on this machine for the text of a profile."""
    conf = tmp_path / "nvml.conf"
    library = {"LD_LIBRARY_PATH": str(HostGpu(testbed.root).library.parent), "FAKE_NVML_CONF": str(conf)}

    def ask(profile: str) -> dict[str, Any]:
        conf.write_text(profile)
        done = subprocess.run([sys.executable, PROBE], env={**os.environ, **library}, capture_output=True, check=True)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    return ask


def test_nvml_answers_follow_the_profile(probe: Probe) -> None:
    answer = probe(ONE)
    (gpu,) = answer.pop("gpus")
    assert answer == {"driver": "570.172.08", "nvml": "12.570.172.08", "cuda": 12080}
    assert gpu == {
        "name": "NVIDIA GeForce RTX 4090",
        "uuid": "GPU-11111111-2222-3333-4444-555555555555",
        "brand": pynvml.NVML_BRAND_GEFORCE,
        "architecture": pynvml.NVML_DEVICE_ARCH_ADA,
        "capability": [8, 9],
        "memory": [24564, 23064, 1500],
        "memory_v2": [24564, 23064, 1000],
        "mig": ["NVMLError_NotSupported", 3],
        "bus": "00000000:01:00.0",
        "utilisation": 37,
        "compute": [[4242, 900], [4343, 50]],
        "graphics": [[900, 50]],
        "instances": [],
        "board": ["NVMLError_FunctionNotFound", 13],
    }


def test_mig_mode_follows_the_profile(probe: Probe) -> None:
    uuid = "MIG-11111111-2222-3333-4444-555555555555"
    (gpu,) = probe(ONE + f"mig = 1\ninstance = {uuid}:1g.6gb:6144\n")["gpus"]
    assert gpu["mig"] == [1, 1]
    assert gpu["instances"][:3] == [
        ["NVMLError_NotFound", 6],
        ["NVIDIA GeForce RTX 4090 MIG 1g.6gb", uuid, 6144],
        ["NVMLError_NotFound", 6],
    ]


@pytest.mark.parametrize(
    ("fault", "init"),
    [
        ("fail.nvmlInit = 18", ["NVMLError_LibRmVersionMismatch", 18]),
        ("fail.nvmlInitWithFlags = 9", ["NVMLError_DriverNotLoaded", 9]),
        ("fail.nvmlInit = 999", ["NVMLError_Unknown", 999]),
    ],
)
def test_library_that_does_not_start(probe: Probe, fault: str, init: list[Any]) -> None:
    assert probe(f"{fault}\n{ONE}") == {"init": init}


def test_library_that_is_missing(tmp_path: Path) -> None:
    empty = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, PROBE], env=empty, capture_output=True, check=True)
    assert json.loads(done.stdout) == {"init": ["NVMLError_LibraryNotFound", 12]}


def test_one_function_fails_on_all_gpus(probe: Probe) -> None:
    (gpu,) = probe(f"fail.nvmlDeviceGetMemoryInfo = 999\n{ONE}")["gpus"]
    assert gpu["memory"] == gpu["memory_v2"] == ["NVMLError_Unknown", 999]
    assert gpu["name"] == "NVIDIA GeForce RTX 4090"


def test_one_function_fails_on_one_gpu(probe: Probe) -> None:
    one, two = probe(profile_text("h100x2-570") + "fail.nvmlDeviceGetUtilizationRates = 3\n")["gpus"]
    assert one["utilisation"] == 0
    assert two["utilisation"] == ["NVMLError_NotSupported", 3]


def test_one_gpu_is_lost(probe: Probe) -> None:
    one, two = probe(profile_text("lost"))["gpus"]
    assert one["name"] == "NVIDIA GeForce RTX 4090"
    assert two == {"handle": ["NVMLError_GpuIsLost", 15]}


def test_a_gpu_fails_under_a_running_program(testbed: Engine, tmp_path: Path) -> None:
    conf = tmp_path / "nvml.conf"
    conf.write_text(ONE)
    code = (
        "import pynvml as n; n.nvmlInit(); h = n.nvmlDeviceGetHandleByIndex(0)\n"
        "print(n.nvmlDeviceGetName(h), flush=True); input()\n"
        "try: n.nvmlDeviceGetName(h)\n"
        "except n.NVMLError_GpuIsLost: print('lost')\n"
    )
    env = {**os.environ, **HostGpu(testbed.root).env(), "FAKE_NVML_CONF": str(conf)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], env=env, **pipes) as program:  # type: ignore[call-overload]
        assert program.stdout.readline() == "NVIDIA GeForce RTX 4090\n"
        conf.write_text(ONE + "fail = 15\n")
        assert program.communicate("\n")[0] == "lost\n"


def on_node(node: Node) -> dict[str, Any]:
    source = Path(pynvml.__file__).read_text()
    node.exec("sh", "-c", "cat >/tmp/pynvml.py", stdin=source)
    node.exec("sh", "-c", "cat >/tmp/probe.py", stdin=PROBE.read_text())
    answer: dict[str, Any] = json.loads(node.exec("python3", "/tmp/probe.py"))
    return answer


def test_nodes_have_their_own_gpus(lab3: Lab) -> None:
    answers = [on_node(node) for node in lab3.nodes]
    assert [answer["driver"] for answer in answers] == ["580.95.05", "570.172.08", "535.183.01"]
    assert [len(answer["gpus"]) for answer in answers] == [2, 1, 1]
    uuids = [gpu["uuid"] for answer in answers for gpu in answer["gpus"]]
    assert len(set(uuids)) == len(uuids)
    assert answers[2]["gpus"][0]["capability"] == [7, 0]


@pytest.mark.parametrize(
    ("profile", "answer"),
    [
        ("none", {"init": ["NVMLError_LibraryNotFound", 12]}),
        ("unloaded", {"init": ["NVMLError_DriverNotLoaded", 9]}),
        ("mismatch", {"init": ["NVMLError_LibRmVersionMismatch", 18]}),
    ],
)
def test_node_without_a_working_driver(lab3: Lab, profile: str, answer: dict[str, Any]) -> None:
    node = lab3.node("node2")
    node.set_profile(profile_text(profile))
    try:
        assert on_node(node) == answer
    finally:
        node.set_profile(profile_text("rtx4090-570"))
