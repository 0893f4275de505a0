"""The command `provision` of a node is installed, replaced and removed, and another program of that name never is."""

import stat
import subprocess
from pathlib import Path

import pytest

from tests.playbooks.node_code import module_util

installs, boot = module_util("client.install"), module_util("transaction.boot")
SOCKET = "/run/provisioner/broker.sock"


@pytest.fixture
def text() -> str:
    return str(installs.client_text(boot.own_code(), SOCKET, boot.PYTHON))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bin/provision"


def test_the_client_is_installed_for_everybody_and_replaces_only_itself(path: Path, text: str) -> None:
    assert installs.install_client(path, text)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (text, 0o755)
    number = path.stat().st_ino
    assert installs.install_client(path, text)
    assert path.stat().st_ino == number
    assert installs.install_client(path, f"{text}# newer\n")
    assert path.read_text().endswith("# newer\n")
    assert [*path.parent.iterdir()] == [path]
    installs.remove_client(path)
    assert not path.exists()
    installs.remove_client(path)


def test_a_mode_that_was_changed_is_set_again(path: Path, text: str) -> None:
    assert installs.install_client(path, text)
    path.chmod(0o700)
    assert installs.install_client(path, text)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


@pytest.mark.parametrize(
    "content", [b"", b"#!/usr/bin/python3\nfrom provisioner.cli import main\n", b"\x7fELF\xff\xfe"]
)
def test_another_program_is_left(path: Path, text: str, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    assert not installs.install_client(path, text)
    installs.remove_client(path)
    assert path.read_bytes() == content


def test_a_mark_that_is_not_in_front_does_not_make_a_program_ours(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n# installs:\n{installs.MARK}\n")
    assert not installs.install_client(path, text)


@pytest.mark.parametrize("has_target", [True, False])
def test_a_link_is_another_program(path: Path, text: str, tmp_path: Path, has_target: bool) -> None:
    path.parent.mkdir()
    if has_target:
        (tmp_path / "target").write_text(text)
    path.symlink_to(tmp_path / "target")
    assert not installs.install_client(path, text)
    installs.remove_client(path)
    assert path.is_symlink()


def test_the_program_needs_nothing_but_the_standard_library(path: Path, text: str) -> None:
    installs.install_client(path, text)
    ran = subprocess.run([str(path), "me", "--help"], capture_output=True, text=True, check=False, env={}, cwd="/")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "Example:\n    provision me" in ran.stdout
