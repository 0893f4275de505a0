import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine, serving
from tests.playbooks.fake_nvml import a_gpu
from tests.playbooks.node_code import module_util


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test cuts the power, and a disk that several test runs share takes its time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """The engine that the node's code finds."""
    socket = tmp_path / "engine.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{socket}")
    with serving(FakeEngine(), socket) as fake:
        yield fake


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The GPUs as NVML tells them, nobody at work; a test changes what it likes."""
    gpus = [a_gpu("GPU-1")]
    monkeypatch.setattr(module_util("busy"), "ask_nvml", lambda: {"gpus": gpus})
    monkeypatch.setattr(module_util("busy"), "named", lambda found: found)
    return gpus


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands, none of which is run."""
    calls: list[list[str]] = []

    def run(argv: list[str], *_: Any, **__: Any) -> Any:
        calls.append(argv)
        return module_util("host").Ran(0, "the url is http://x/?token=secret-token \x1b[2J\n", "")

    monkeypatch.setattr(module_util("compose"), "run", run)
    return calls
