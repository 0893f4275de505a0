import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.bed import Lab, running_lab
from tests.lab.engine import Engine
from tests.lab.node import Node
from tests.playbooks import fake_engine
from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.fake_nvml import a_gpu
from tests.playbooks.node_code import module_util
from tests.playbooks.on_nodes import FOLDER, Images, Rollout


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test cuts the power, and a disk that several test runs share takes its time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """The engine that the node's code finds."""
    socket = tmp_path / "engine.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{socket}")
    with fake_engine.serving(FakeEngine(), socket) as fake:
        yield fake


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The GPUs as NVML tells them, nobody at work; a test changes what it likes."""
    gpus = [a_gpu("GPU-1")]
    monkeypatch.setattr(module_util("seat.busy"), "query_nvml", lambda: {"gpus": gpus})
    monkeypatch.setattr(module_util("seat.busy"), "with_container_names", lambda found: found)
    return gpus


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands, none of which is run."""
    calls: list[list[str]] = []

    def run(argv: list[str], *_: Any, **__: Any) -> Any:
        calls.append(argv)
        return module_util("base.command").CommandResult(0, "the url is http://x/?token=secret-token \x1b[2J\n", "")

    monkeypatch.setattr(module_util("seat.compose"), "run", run)
    return calls


@pytest.fixture(scope="session")
def bed(testbed: Engine) -> Iterator[Lab]:
    with running_lab(testbed, ["rtx5090x2-580"]) as lab:
        yield lab


@pytest.fixture(scope="session")
def images(bed: Lab) -> Images:
    return Images(bed)


@pytest.fixture(scope="session")
def rollout(bed: Lab) -> Rollout:
    return Rollout(bed)


@pytest.fixture
def bare(rollout: Rollout) -> Node:
    """The node without a seat, and without any layer of an image."""
    node = rollout.lab.node(rollout.node)
    rollout.take_down("remove")
    node.exec("rm", "-rf", FOLDER)
    node.exec("docker", "image", "prune", "-af")
    return node


@pytest.fixture
def serving(rollout: Rollout, images: Images) -> Node:
    """The node with a seat that is committed and healthy, at the first image."""
    node = rollout.lab.node(rollout.node)
    seats = rollout.facts().seats
    if not (seats and seats[0].image == images.first.lab and set(seats[0].services.values()) == {"healthy"}):
        assert rollout.roll_out(images.first).state == "committed"
    return node
