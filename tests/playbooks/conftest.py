import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.playbooks.fake_engine import FakeEngine, serving


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
