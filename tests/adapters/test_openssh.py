"""The user's own ssh: what reaches a node, what is written into ~/.ssh, and what is left as it was."""

import os
import stat
import threading
from pathlib import Path

import pytest

from provisioner.adapters import openssh
from provisioner.domain.values.problem import ProblemError
from tests.domain.rollout.test_own_seat import HOST_KEY, an_entry

FAKE = """#!/bin/sh
for last; do :; done
exec sh -c "$last"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder ~/.ssh of a user whose ssh runs commands on this machine."""
    monkeypatch.setenv("HOME", str(tmp_path))
    program = tmp_path / "bin/ssh"
    program.parent.mkdir()
    program.write_text(FAKE)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    (tmp_path / ".ssh").mkdir(mode=0o700)
    return tmp_path / ".ssh"


@pytest.mark.usefixtures("folder")
def test_words_reach_the_command_as_they_are() -> None:
    words = ["a b", "$(id)", "`id`", "'", '"', "\\", ";", "*", "", "é", "-n"]
    ran = openssh.run_on("gpu1", ["printf", "%s\\n", *words], "", lambda _: None)
    assert (ran.code, ran.stdout) == (0, "".join(f"{word}\n" for word in words))


@pytest.mark.usefixtures("folder")
def test_input_output_messages_and_exit_code_are_those_of_the_command() -> None:
    lines: list[str] = []
    ran = openssh.run_on(
        "gpu1", ["sh", "-c", "cat; echo one >&2; printf 'two\\377' >&2; exit 7"], "keys\n", lines.append
    )
    assert (ran.code, ran.stdout, lines) == (7, "keys\n", ["one", "two\ufffd"])


@pytest.mark.usefixtures("folder")
def test_endless_output_takes_no_memory_and_a_command_that_reads_nothing_ends() -> None:
    ran = openssh.run_on("gpu1", ["head", "-c", "3000000", "/dev/zero"], "x" * 200_000, lambda _: None)
    assert len(ran.stdout) == 1 << 20


def test_without_ssh_it_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProblemError, match="no_ssh"):
        openssh.run_on("gpu1", ["true"], "", lambda _: None)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_first_entry_makes_private_files(folder: Path) -> None:
    folder.rmdir()
    assert not openssh.write_entry(an_entry())
    assert {item.relative_to(folder).as_posix(): mode(item) for item in folder.rglob("*")} == {
        "config": 0o600,
        "config.d": 0o700,
        "config.d/provisioner-gpu1-ml.conf": 0o600,
        "provisioner_known_hosts": 0o600,
    }
    assert mode(folder) == 0o700
    assert (folder / "config").read_text() == "Include config.d/provisioner-*.conf\n\n"
    assert openssh.is_included()


def test_other_lines_modes_and_files_stay(folder: Path) -> None:
    config = "# mine\r\nHost work\n\tUser  me # \u5b89\u5a1c\n"
    (folder / "config").write_text(config, newline="")
    (folder / "config").chmod(0o644)
    (folder / "provisioner_known_hosts").write_text(f"other {HOST_KEY}\n")
    assert not openssh.is_included()
    openssh.write_entry(an_entry())
    after = (folder / "config").read_bytes().decode()
    assert after == f"Include config.d/provisioner-*.conf\n\n{config}"
    assert mode(folder / "config") == 0o644
    assert (folder / "provisioner_known_hosts").read_text() == f"other {HOST_KEY}\ngpu1-ml {HOST_KEY}\n"
    numbers = {path: path.stat().st_ino for path in folder.rglob("*")}
    openssh.write_entry(an_entry())
    assert {path: path.stat().st_ino for path in folder.rglob("*")} == numbers


def test_a_link_to_a_configuration_is_followed_and_stays_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "dotfile").write_text("Host work\n")
    (folder / "config").symlink_to(tmp_path / "dotfile")
    openssh.write_entry(an_entry())
    assert (folder / "config").is_symlink()
    assert (tmp_path / "dotfile").read_text().endswith("\n\nHost work\n")


def test_a_configuration_that_cannot_be_read_is_left_and_explained(folder: Path) -> None:
    (folder / "config").write_bytes(b"Host caf\xe9\n")
    with pytest.raises(ProblemError, match="not_utf8") as caught:
        openssh.is_included()
    assert caught.value.ending == "usage"
    (folder / "config").unlink()
    os.mkfifo(folder / "config")
    with pytest.raises(ProblemError, match="unreadable"):
        openssh.is_included()


def test_entries_that_are_written_at_once_are_all_there(folder: Path) -> None:
    names = [f"gpu{number}-ml" for number in range(8)]
    threads = [threading.Thread(target=openssh.write_entry, args=(an_entry(alias=name),)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    known = {line.split(" ")[0] for line in (folder / "provisioner_known_hosts").read_text().splitlines()}
    assert known == set(names)
    assert (folder / "config").read_text().count("Include") == 1


def test_a_port_of_this_computer_is_reachable_and_a_loopback_address_is_not() -> None:
    port = openssh.free_port()
    assert port
    assert not openssh.is_reachable("127.0.0.1", port)
    assert not openssh.is_reachable("192.0.2.1", 0)
