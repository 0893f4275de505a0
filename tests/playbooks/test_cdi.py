import json
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.node_code import module_util

cdi = module_util("gpu.cdi")

# As nvidia-ctk 1.17 writes it, shortened.
YAML = """---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
    - name: "0"
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
    - containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
      name: GPU-1
    - name: all
containerEdits:
    env:
        - NVIDIA_VISIBLE_DEVICES=void
    hooks:
        - hookName: createContainer
          path: /usr/bin/nvidia-cdi-hook
"""
JSON = json.dumps({"kind": "nvidia.com/gpu", "devices": [{"name": "0"}, {"name": "GPU-1"}]})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (YAML, ["nvidia.com/gpu=0", "nvidia.com/gpu=GPU-1", "nvidia.com/gpu=all"]),
        (JSON, ["nvidia.com/gpu=0", "nvidia.com/gpu=GPU-1"]),
        (JSON.replace("nvidia.com/gpu", "vendor.example/net"), []),
        ("kind: nvidia.com/gpu\n", []),
        ("[1, 2]", []),
        ("", []),
    ],
)
def test_parse_devices_returns_qualified_device_names(text: str, names: list[str]) -> None:
    assert cdi.parse_devices(text) == names


REAL = {"nvidia": {"path": "/bin/sh"}}
GONE = {"nvidia": {"path": "/no/such/runtime"}}


@pytest.mark.parametrize(
    ("spec", "runtimes", "uuids", "mode"),
    [
        (YAML, {}, ["GPU-1"], "cdi"),
        (YAML, REAL, ["GPU-1"], "cdi"),
        (YAML, REAL, ["GPU-2"], "legacy"),
        (YAML, REAL, ["GPU-1", "GPU-2"], "legacy"),
        ("", REAL, ["GPU-1"], "legacy"),
        ("", GONE, ["GPU-1"], None),
        ("", {}, ["GPU-1"], None),
        (YAML, {}, [], None),
    ],
)
def test_toolkit_mode_is_cdi_only_if_the_specifications_name_every_gpu(
    spec: str, runtimes: dict[str, Any], uuids: list[str], mode: str | None, folder: Path
) -> None:
    (folder / "nvidia.yaml").write_text(spec)
    (folder / "README").write_text(YAML)
    info = {"CDISpecDirs": [str(folder), str(folder / "none")], "Runtimes": runtimes}
    assert cdi.toolkit_facts(info, [{"uuid": uuid} for uuid in uuids])["toolkit_mode"] == mode


# What the specifications say -> the mode, where it does not depend on programs and runtimes.
SPECIFICATIONS = {
    "in YAML": (YAML, "cdi"),
    "in JSON": (JSON, "cdi"),
    "by number only": (YAML.replace("GPU-1", "1"), None),
    "of another vendor": (JSON.replace("nvidia.com/gpu", "vendor.example/net"), None),
    "none": ("", None),
}
PROGRAMS = [(), (cdi.HOOK,), ("nvidia-cdi-hook",), (cdi.HOOK, "nvidia-cdi-hook")]


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("runtimes", [{}, REAL, GONE], ids=["no runtime", "runtime", "runtime without its program"])
@pytest.mark.parametrize("programs", PROGRAMS, ids=str)
@pytest.mark.parametrize("named", SPECIFICATIONS)
def test_toolkit_mode_is_that_in_which_a_seat_gets_its_gpus_by_uuid(
    named: str, programs: tuple[str, ...], runtimes: dict[str, Any], on: bool, folder: Path
) -> None:
    """Also on Engine 29.2 and newer, which tries CDI for `driver: nvidia` where it finds nvidia-cdi-hook.

    It asks for the same names then, nvidia.com/gpu=UUID (moby docker-v29.2.0: daemon/devices_nvidia_linux.go).
    """
    text, mode = SPECIFICATIONS[named]
    (folder / "nvidia.yaml").write_text(text)
    for program in programs:
        (folder / program).touch(0o755)
    devices = [{"Source": "cdi", "ID": f"nvidia.com/gpu={name}"} for name in ("0", "all")]
    info = {"CDISpecDirs": [str(folder)] if on else [], "Runtimes": runtimes, "DiscoveredDevices": devices}
    legacy = "legacy" if cdi.HOOK in programs or runtimes is REAL else None
    found = cdi.toolkit_facts(info, [{"uuid": "GPU-1"}])["toolkit_mode"]
    assert found == ((on and mode) or legacy)


def test_a_card_in_mig_mode_need_not_be_named_by_the_specifications(folder: Path) -> None:
    (folder / "nvidia.yaml").write_text(YAML)
    gpus = [{"uuid": "GPU-1"}, {"uuid": "GPU-2", "mig_enabled": True}]
    assert cdi.toolkit_facts({"CDISpecDirs": [str(folder)], "Runtimes": REAL}, gpus)["toolkit_mode"] == "cdi"


def test_specifications_are_ignored_if_the_engine_has_cdi_off(folder: Path) -> None:
    (folder / "nvidia.yaml").write_text(YAML)
    facts = cdi.toolkit_facts({"CDISpecDirs": None, "Runtimes": REAL}, [{"uuid": "GPU-1"}])
    assert facts == {"toolkit_mode": "legacy", "cdi_devices": []}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is also the whole PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_the_hook_on_the_path_alone_gives_legacy_mode(folder: Path) -> None:
    (folder / cdi.HOOK).touch(0o755)
    assert cdi.toolkit_facts({}, [{"uuid": "GPU-1"}])["toolkit_mode"] == "legacy"
