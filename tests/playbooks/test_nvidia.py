import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from provisioner.domain.values.node import NodeFacts
from tests.playbooks.fake_nvml import FakeNvml, Plain
from tests.playbooks.node_code import module_util

nvidia, nvml, busy = (module_util(name) for name in ("gpu.nvidia", "gpu.nvml", "seat.busy"))

OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs)\nGCC version: 12.2.0\n"
CLOSED = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version: 11.4.0\n"
)
ARM = "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  570.172.08  Release Build\n"


@pytest.mark.parametrize(
    ("text", "driver", "flavour"),
    [
        (OPEN, "580.95.05", "open"),
        (CLOSED, "535.183.01", "proprietary"),
        (ARM, "570.172.08", "open"),
        ("", None, None),
        ("nonsense\n", None, "proprietary"),
    ],
)
def test_driver_version_and_flavour_from_proc(text: str, driver: str | None, flavour: str | None) -> None:
    assert (nvidia.loaded_driver(text), nvidia.flavour(text)) == (driver, flavour)


def a_device(folder: Path, name: str, vendor: str, kind: str, *, virtual: bool = False) -> None:
    device = folder / name
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    if virtual:
        (device / "physfn").symlink_to(folder)


def test_pci_gpus_counts_neither_audio_nor_virtual_functions(tmp_path: Path) -> None:
    a_device(tmp_path, "0000:01:00.0", "0x10de", "0x030000")
    a_device(tmp_path, "0000:02:00.0", "0x10de", "0x030200")
    a_device(tmp_path, "0000:02:00.4", "0x10de", "0x030200", virtual=True)
    a_device(tmp_path, "0000:01:00.1", "0x10de", "0x040300")
    a_device(tmp_path, "0000:00:02.0", "0x8086", "0x030000")
    a_device(tmp_path, "0000:03:00.0", "0x10de", "0x068000")
    assert nvidia.pci_gpus(tmp_path) == 2


def test_pci_gpus_is_none_without_sysfs(tmp_path: Path) -> None:
    assert nvidia.pci_gpus(tmp_path / "none") is None


@pytest.fixture
def probe_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., NodeFacts]:
    """Return the facts of a node with these GPUs, and as many on its PCI bus unless `pci` is given."""

    def probe_gpus(cards: list[dict[str, Any]], version: str = OPEN, pci: int | None = None, **fails: int) -> NodeFacts:
        (tmp_path / "driver/nvidia").mkdir(parents=True)
        (tmp_path / "driver/nvidia/version").write_text(version)
        (tmp_path / "bus/pci/devices").mkdir(parents=True)
        for index in range(len(cards) if pci is None else pci):
            a_device(tmp_path / "bus/pci/devices", f"0000:0{index}:00.0", "0x10de", "0x030000")
        monkeypatch.setenv("PROVISIONER_PROC_ROOT", str(tmp_path))
        monkeypatch.setenv("PROVISIONER_SYS_ROOT", str(tmp_path))
        monkeypatch.setattr(nvml, "nvml", FakeNvml(cards, **fails))
        facts, absent, problems = nvidia.nvidia_facts()
        return NodeFacts.model_validate({"name": "n1", **facts, "absent_because": absent, "problems": problems})

    return probe_gpus


def test_facts_of_a_healthy_gpu(probe_gpus: Callable[..., NodeFacts]) -> None:
    process = Plain(pid=1, usedGpuMemory=5 << 20)
    facts = probe_gpus([{"nvmlDeviceGetComputeRunningProcesses": [process]}])
    (gpu,) = facts.gpus
    assert gpu.usable
    assert (gpu.uuid, gpu.name, gpu.brand) == (
        "GPU-00000001-0000-0000-0000-000000000000",
        "NVIDIA GeForce RTX 4090",
        "geforce",
    )
    assert (str(gpu.compute_capability), gpu.memory_total, gpu.mig_enabled) == ("8.9", 24 << 30, False)
    assert gpu.pci_bus_id == "00000000:0a:00.0"
    assert gpu.processes
    assert gpu.utilization == 7
    assert (gpu.processes[0].kind, gpu.processes[0].user, gpu.processes[0].used_memory) == ("compute", "root", 5 << 20)
    assert (str(facts.driver), str(facts.cuda_driver)) == ("570.172.08", "12.8")
    assert not facts.problems
    assert not facts.absent_because


@pytest.mark.parametrize("broken", [{"lost": 15}, {"fails": {"nvmlDeviceGetCudaComputeCapability": 15}}])
def test_a_lost_gpu_is_a_problem_of_that_gpu_only(probe_gpus: Callable[..., NodeFacts], broken: dict[str, Any]) -> None:
    facts = probe_gpus([{}, broken])
    assert [gpu.usable for gpu in facts.gpus] == [True, False]
    assert facts.gpus[1].compute_capability is None
    assert [problem.code for problem in facts.gpus[1].problems] == ["gpu_lost"]
    assert not facts.problems


def test_a_card_in_mig_mode_is_reported_and_not_usable_as_a_whole(probe_gpus: Callable[..., NodeFacts]) -> None:
    facts = probe_gpus([{"nvmlDeviceGetMigMode": [1, 1]}])
    (gpu,) = facts.gpus
    assert (gpu.mig_enabled, gpu.usable, gpu.problems) == (True, False, ())
    assert [problem.code for problem in facts.gpu_problems] == ["mig_mode"]


def a_mig_device(uuid: str, **over: Any) -> dict[str, Any]:
    """Return a MIG device as NVML describes it: the card answers for what is not its own."""
    own = {"nvmlDeviceGetUUID": uuid, "nvmlDeviceGetName": "NVIDIA A100-SXM4-40GB MIG 1g.5gb"}
    not_of_a_device = dict.fromkeys(("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMigMode"), 3)
    return {**own, "nvmlDeviceGetMemoryInfo": Plain(total=5 << 30, used=1 << 20), "fails": not_of_a_device, **over}


MIG_UUIDS = [f"MIG-0000000{number}-0000-0000-0000-000000000000" for number in range(3)]
OLD_UUID = "MIG-GPU-00000001-0000-0000-0000-000000000000/1/0"  # of drivers before 470


def test_mig_devices_follow_their_card(probe_gpus: Callable[..., NodeFacts]) -> None:
    """The place of a device that was destroyed is empty, and a device that is lost hides no other."""
    lost = a_mig_device(MIG_UUIDS[1], fails={"nvmlDeviceGetComputeRunningProcesses": 15})
    process = [Plain(pid=1, usedGpuMemory=5 << 20)]
    devices = [
        None,
        a_mig_device(MIG_UUIDS[0], nvmlDeviceGetComputeRunningProcesses=process),
        lost,
        a_mig_device(OLD_UUID),
    ]
    facts = probe_gpus(
        [{}, {"nvmlDeviceGetMigMode": [1, 1], "nvmlDeviceGetCudaComputeCapability": (8, 0), "mig": devices}]
    )
    whole, card, *found = facts.gpus
    assert (whole.instance, card.instance, card.mig_enabled) == (None, None, True)
    assert [(gpu.index, gpu.instance, gpu.uuid) for gpu in found] == [
        (1, 0, MIG_UUIDS[0]),
        (1, 1, MIG_UUIDS[1]),
        (1, 2, None),
    ]
    assert [gpu.usable for gpu in found] == [True, False, False]
    assert [[problem.code for problem in gpu.problems] for gpu in found] == [[], ["gpu_lost"], ["mig_without_uuid"]]
    assert (str(found[0].compute_capability), found[0].memory_total, found[0].utilization) == ("8.0", 5 << 30, None)
    assert found[0].processes is not None
    assert [one.pid for one in found[0].processes] == [1]
    assert not facts.problems, "the PCI bus has two cards"


def test_the_use_of_each_mig_device_is_known_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    process = [Plain(pid=os.getpid(), usedGpuMemory=5 << 20)]
    devices = [
        a_mig_device(MIG_UUIDS[0]),
        a_mig_device(MIG_UUIDS[1], nvmlDeviceGetComputeRunningProcesses=process),
        a_mig_device(MIG_UUIDS[2], nvmlDeviceGetMemoryInfo=Plain(total=5 << 30, used=3 << 30)),
    ]
    monkeypatch.setattr(nvml, "nvml", FakeNvml([{"nvmlDeviceGetMigMode": [1, 1], "mig": devices}]))
    assert busy.gpu_users(MIG_UUIDS[:1]) == []
    (listed,), (unlisted,) = busy.gpu_users(MIG_UUIDS[1:2]), busy.gpu_users(MIG_UUIDS[2:])
    assert listed.startswith(f"GPU 0, MIG device 1: pid {os.getpid()} ")
    assert unlisted == "GPU 0, MIG device 2: 3.2 GB are in use by a process that the driver does not list"


def test_an_unsupported_query_is_not_a_problem(probe_gpus: Callable[..., NodeFacts]) -> None:
    (gpu,) = probe_gpus([{"fails": {"nvmlDeviceGetMigMode": 3, "nvmlDeviceGetMemoryInfo": 3}}]).gpus
    assert gpu.usable
    assert (gpu.mig_enabled, gpu.memory_total) == (None, None)


@pytest.fixture
def named_by_itself() -> Iterator[str]:
    """Give this process a name with a control sequence that clears a screen."""
    comm = Path("/proc/self/comm")
    before = comm.read_text()
    comm.write_text("\x1b[2Jtrain")
    yield "?[2Jtrain"
    comm.write_text(before.strip())


def test_control_characters_in_a_process_name_are_replaced(
    probe_gpus: Callable[..., NodeFacts], named_by_itself: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown_user(_: int) -> Any:
        raise KeyError

    monkeypatch.setattr(nvml.pwd, "getpwuid", unknown_user)
    (gpu,) = probe_gpus([{"nvmlDeviceGetComputeRunningProcesses": [Plain(pid=os.getpid(), usedGpuMemory=None)]}]).gpus
    assert gpu.processes
    assert (gpu.processes[0].command, gpu.processes[0].user) == (named_by_itself, f"uid {os.geteuid()}")


def test_memory_reserved_by_the_driver_does_not_count_as_used(
    probe_gpus: Callable[..., NodeFacts], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 1 of the call counts it as used, version 2 (drivers since 510) does not."""

    class Versions(FakeNvml):
        def _answer(self, name: str, *arguments: Any) -> Any:
            used = 2 << 20 if arguments[1:] == (nvml.MEMORY_V2,) else 600 << 20
            answer = super()._answer(name, *arguments)
            return Plain(total=24 << 30, used=used) if name == "nvmlDeviceGetMemoryInfo" else answer

    monkeypatch.setitem(globals(), "FakeNvml", Versions)
    assert probe_gpus([{}]).gpus[0].memory_used == 2 << 20


def test_processes_are_queried_by_the_older_call_on_an_old_driver(probe_gpus: Callable[..., NodeFacts]) -> None:
    (gpu,) = probe_gpus([{"fails": {"nvmlDeviceGetComputeRunningProcesses": 13}}]).gpus
    assert gpu.processes == ()


def test_processes_are_none_if_their_query_fails(probe_gpus: Callable[..., NodeFacts]) -> None:
    calls = ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetComputeRunningProcesses_v2")
    (gpu,) = probe_gpus([{"fails": dict.fromkeys(calls, 4)}]).gpus
    assert gpu.processes is None
    assert [problem.code for problem in gpu.problems] == ["gpu_error"]


def test_a_gpu_on_the_pci_bus_that_nvml_does_not_list_is_reported(probe_gpus: Callable[..., NodeFacts]) -> None:
    facts = probe_gpus([{}], pci=2)
    assert [problem.code for problem in facts.problems] == ["gpu_missing"]
    assert "2 NVIDIA GPUs, the driver lists 1" in facts.problems[0].what


@pytest.mark.parametrize(
    ("number", "code", "reason"),
    [
        (9, "driver_not_loaded", "kernel module is not loaded"),
        (18, "driver_mismatch", "differ in version"),
        (4, "nvml_no_permission", "no permission"),
        (12, "no_driver", "NVML library not found: no NVIDIA driver is installed"),
        (999, "nvml_fails", "NVML: "),
    ],
)
def test_each_nvml_failure_has_its_code_and_reason(
    probe_gpus: Callable[..., NodeFacts], number: int, code: str, reason: str
) -> None:
    facts = probe_gpus([{}], nvmlInit=number)
    assert [problem.code for problem in facts.problems] == [code]
    assert reason in facts.absent_because["gpus"]
    assert reason in facts.absent_because["cuda_driver"]
    assert not facts.gpus


def test_the_loaded_driver_is_known_despite_a_library_mismatch(probe_gpus: Callable[..., NodeFacts]) -> None:
    facts = probe_gpus([{}], version=CLOSED, nvmlInit=18)
    assert (str(facts.driver), facts.kernel_module) == ("535.183.01", "proprietary")
    assert "driver" not in facts.absent_because


def test_a_machine_without_gpus_and_driver_has_no_problem(probe_gpus: Callable[..., NodeFacts]) -> None:
    facts = probe_gpus([], version="", nvmlInit=12)
    assert not facts.problems
    assert set(facts.absent_because) == {"driver", "cuda_driver", "gpus", "kernel_module"}


def test_a_hanging_nvml_does_not_block_the_probe(
    probe_gpus: Callable[..., NodeFacts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "SECONDS", 0.2)
    monkeypatch.setattr(nvml, "_query", lambda: time.sleep(60))
    facts = probe_gpus([{}])
    assert facts.absent_because["gpus"] == "NVML did not answer within 0.2 s"
    assert [problem.code for problem in facts.problems] == ["nvml_fails"]
