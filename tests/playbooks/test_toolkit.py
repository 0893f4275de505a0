import time
from pathlib import Path

import pytest

from tests.playbooks.node_code import module_util

toolkit = module_util("gpu.toolkit")

CTK = "NVIDIA Container Toolkit CLI version 1.12.0\ncommit: 62bd015475656ef795cb0d59cc4030a6bd4a9526\n"
CLI = "cli-version: 1.13.5\nlib-version: 0.11.0+jetpack\nbuild date: 2023-07-18T11:40+00:00\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of the PATH without NVIDIA's programs."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def programs(folder: Path, ctk: str, cli: str) -> None:
    for name, script in (("nvidia-ctk", ctk), ("nvidia-container-cli", cli)):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)


def printed(text: str) -> str:
    return f"cat <<'END'\n{text}END"


@pytest.mark.parametrize(
    ("ctk", "cli", "found"),
    [
        (printed(CTK), printed(CLI), ("1.12.0", "1.13.5")),
        (printed(CTK.replace("1.12.0", "1.17.8-rc.1")), printed("version: 1.7.0\n"), ("1.17.8", "1.7.0")),
        (printed("CLI version " + "9" * 70000), printed("lib-version: 1.0.0\n"), (None, None)),
        ("exit 1", "kill -9 $$", (None, None)),
    ],
)
def test_versions_are_those_that_the_programs_print(
    folder: Path, ctk: str, cli: str, found: tuple[str | None, str | None]
) -> None:
    programs(folder, ctk, cli)
    versions, absent = toolkit.toolkit_versions()
    assert tuple(versions.values()) == found
    assert absent.keys() == {name for name, version in versions.items() if version is None}


def test_a_program_that_hangs_or_cannot_run_has_no_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkit, "SECONDS", 0.2)
    programs(folder, "sleep 60", "")
    (folder / "nvidia-container-cli").write_bytes(b"\x7fELF of another machine")
    began = time.monotonic()
    assert set(toolkit.toolkit_versions()[0].values()) == {None}
    assert time.monotonic() - began < 5


@pytest.mark.usefixtures("folder")
def test_a_node_without_the_toolkit_has_no_version() -> None:
    assert set(toolkit.toolkit_versions()[0].values()) == {None}
