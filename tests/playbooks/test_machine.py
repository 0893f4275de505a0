import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.node_code import module_util

machine = module_util("docker.machine")


def test_image_digests_are_unique_and_skip_images_without_a_digest(engine: FakeEngine) -> None:
    """An engine 20.10 writes <none>@<none> for an image that was built and never pushed."""
    engine.images = {
        "1": {"RepoDigests": ["reg.lab/a@sha256:2", "mirror.lab/a@sha256:2"]},
        "2": {"RepoDigests": ["<none>@<none>"]},
        "3": {"RepoDigests": None},
        "4": {"RepoDigests": ["reg.lab/b@sha256:1"]},
    }
    assert machine.image_digests() == ["sha256:1", "sha256:2"]


ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010012C6\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000012C6\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth1\t000012C6\t00000000\t0001\t0\t0\t9\t00FFFFFF\t0\t0\t0
br-1\t1000D50A\t00000000\t0001\t0\t0\t0\tF0FFFFFF\t0\t0\t0
tun0\t0700000A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0
"""


@pytest.mark.parametrize(
    ("text", "routes"),
    [(ROUTES, ["10.0.0.7/32", "10.213.0.16/28", "198.18.0.0/24"]), ("Iface\tDestination\n", []), ("", [])],
)
def test_routes_are_the_networks_of_the_main_table_without_the_default(
    monkeypatch: pytest.MonkeyPatch, text: str, routes: list[str]
) -> None:
    monkeypatch.setattr(machine, "read", lambda _: text)
    assert machine.routes() == routes


LIMITS = {"MemTotal": 64 << 30, "NCPU": 16, "MemoryLimit": True, "CpuCfsQuota": True}


@pytest.mark.parametrize(
    ("info", "memory", "cpus"),
    [
        (LIMITS, 64 << 30, 16),
        (LIMITS | {"CpuCfsQuota": False}, 64 << 30, None),  # it would refuse to start a container with a limit of CPUs
        (LIMITS | {"MemoryLimit": False}, None, 16),
        (LIMITS | {"MemTotal": 0, "NCPU": 0}, None, None),
        ({}, None, None),
    ],
)
def test_capacity_is_what_the_engine_can_limit(info: dict[str, Any], memory: int | None, cpus: int | None) -> None:
    found = machine.capacity(info)
    assert (found["memory"], found["cpus"]) == (memory, cpus)


CONTAINERD = [["driver-type", "io.containerd.snapshotter.v1"]]
# As engines describe themselves: 26 with overlay2, 28 and 29 with the store of a containerd that is a service.
OVERLAY2 = {"DriverStatus": [["Backing Filesystem", "extfs"], ["Supports d_type", "true"]]}
SERVICE = {"DriverStatus": CONTAINERD, "Containerd": {"Address": "/run/containerd/containerd.sock"}}
OWN = {"DriverStatus": CONTAINERD, "Containerd": {"Address": "/var/run/docker/containerd/containerd.sock"}}
OTHER_EXEC_ROOT = {"DriverStatus": CONTAINERD, "Containerd": {"Address": "/run/engine/containerd/containerd.sock"}}


@pytest.mark.parametrize(
    ("info", "configuration", "store"),
    [
        ({}, "", "ROOT"),
        (OVERLAY2, "root = '/data/containerd'\n", "ROOT"),
        (SERVICE, "", "/var/lib/containerd"),
        (SERVICE, "version = 3\nroot = '/data/containerd'\n\n[grpc]\n", "/data/containerd"),
        (SERVICE, '[plugins]\n[plugins."x"]\nroot = "/elsewhere"\n', "/var/lib/containerd"),
        (OWN, "root = '/data/containerd'\n", "ROOT/containerd/daemon"),
        ({"DriverStatus": CONTAINERD}, "", "ROOT/containerd/daemon"),
        (OTHER_EXEC_ROOT, "", "ROOT/containerd/daemon"),
    ],
)
def test_the_image_store_is_where_the_engine_keeps_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, info: dict[str, Any], configuration: str, store: str
) -> None:
    (tmp_path / "root/containerd/daemon").mkdir(parents=True)
    (tmp_path / "config.toml").write_text(configuration)
    monkeypatch.setattr(machine, "CONTAINERD_CONFIGURATION", tmp_path / "config.toml")
    root = str(tmp_path / "root")
    assert machine.image_store({"DockerRootDir": root, **info}) == store.replace("ROOT", root)


@pytest.fixture
def private_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of root into which the test may not look: it runs as another user."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    yield tmp_path
    os.seteuid(was)


@pytest.mark.parametrize(
    ("info", "store"), [(SERVICE, "/var/lib/containerd"), (OWN, "ROOT/containerd/daemon"), (OVERLAY2, "ROOT")]
)
def test_a_user_who_may_not_look_into_the_engines_folder_gets_store_and_free_space(
    private_folder: Path, info: dict[str, Any], store: str
) -> None:
    root = private_folder / "root"
    found = machine.image_store({"DockerRootDir": str(root), **info})
    assert found == store.replace("ROOT", str(root))
    assert machine.free_bytes(found)
