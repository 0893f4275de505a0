"""Which public keys the client sends, from a folder that may hold anything, and the key that it makes."""

import os
import subprocess
import threading
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.adapters.lab.sshkeys import A_PRIVATE_KEY, AN_ED25519, AN_RSA
from tests.playbooks.node_code import module_util

me, request_of = module_util("client.me"), module_util("broker.request")
ED25519, RSA = " ".join(AN_ED25519.split()[:2]), " ".join(AN_RSA.split()[:2])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / ".ssh"
    path.mkdir()
    return path


class Session:
    """Asks a broker that answers everybody."""

    def __init__(self) -> None:
        self.asked, self.stream = list[str](), StringIO()
        self.screen, self.ask = me.Screen(self.stream), self.asked.append


def chosen(folder: Path, given: str = "") -> Any:
    return me.own_keys(given, folder, Session())


def code_of(folder: Path) -> str:
    with pytest.raises(me.FaultError) as caught:
        chosen(folder)
    return str(caught.value.problem["code"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (AN_ED25519, [ED25519]),
        (f"# mine\n\n{AN_RSA}\n{AN_ED25519} \n", [RSA, ED25519]),
        (f"{ED25519} 安娜@laptop\n{ED25519} other\n", [ED25519]),
        (f'command="sh" {ED25519}\nrestrict {RSA}\n', []),
        (A_PRIVATE_KEY, []),
        ("ssh-ed25519 AAAAB3NzaC1yc2EAAAADAQABAAABAQ", []),
        ("ssh-ed25519 \x1b[2J", []),
        (f"ssh-rsa {'A' * 1200}", []),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA\udcff", []),
        ("ssh-ed25519", []),
    ],
)
def test_keys_of_a_text(text: str, expected: list[str]) -> None:
    assert me.public_keys(text) == expected


@given(st.text() | st.text(st.sampled_from(f" \n\t{ED25519}")))
def test_what_is_sent_is_always_a_key_that_the_broker_accepts(text: str) -> None:
    assert all(request_of._is_key(key) for key in me.public_keys(text))


def test_public_files_and_plain_lines_of_authorized_keys_are_sent(folder: Path) -> None:
    (folder / "id_lab.pub").write_text(AN_RSA)
    (folder / "id_lab").write_text(A_PRIVATE_KEY)
    (folder / "known_hosts").write_text(f"host {ED25519}\n")
    (folder / "authorized_keys").write_text(f'no-pty {RSA}\nfrom="*" {ED25519}\n{AN_ED25519}\n')
    assert chosen(folder) == [RSA, ED25519]
    assert chosen(folder, ED25519) == [ED25519, RSA]


def a_key(number: int, length: int = 32) -> str:
    blob = b"\0\0\0\x07ssh-rsa" + bytes([number]) * length
    return f"ssh-rsa {me.base64.b64encode(blob).decode()}"


@pytest.mark.parametrize(("length", "count"), [(32, 4), (600, 4), (700, 3)])
def test_at_most_four_keys_are_sent_and_they_fit_into_a_request(folder: Path, length: int, count: int) -> None:
    keys = [a_key(number, length) for number in range(6)]
    (folder / "authorized_keys").write_text("\n".join(keys))
    assert chosen(folder) == keys[:count]


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_loop(path: Path) -> None:
    path.symlink_to(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_huge_file(path: Path) -> None:
    path.write_text(f"{AN_RSA}\n" * 1000)


def no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00ssh-rsa \xff\n")


@pytest.mark.parametrize("make", [a_pipe, a_loop, a_device, a_huge_file, no_text, Path.mkdir], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["id_a.pub", "authorized_keys"])
def test_what_is_no_plain_small_file_is_left_out(folder: Path, make: Callable[[Path], None], name: str) -> None:
    make(folder / name)
    (folder / "id_z.pub").write_text(AN_ED25519)
    assert chosen(folder) == [ED25519]


def test_a_link_to_a_file_of_keys_is_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "dotfile").write_text(AN_ED25519)
    (folder / "authorized_keys").symlink_to(tmp_path / "dotfile")
    assert chosen(folder) == [ED25519]


def test_a_first_use_makes_a_key_and_says_where(tmp_path: Path) -> None:
    folder, session = tmp_path / "new/.ssh", Session()
    keys = me.own_keys("", folder, session)
    assert session.asked == ["status"]
    assert keys == me.public_keys((folder / "id_ed25519.pub").read_text())
    assert len(keys) == 1
    assert str(folder / "id_ed25519") in session.stream.getvalue()
    assert ((folder / "id_ed25519").stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
    assert chosen(folder) == keys


def test_a_private_key_without_its_public_file_is_kept(folder: Path) -> None:
    keys = chosen(folder)
    before = (folder / "id_ed25519").read_bytes()
    (folder / "id_ed25519.pub").unlink()
    assert chosen(folder) == keys
    assert (folder / "id_ed25519").read_bytes() == before


def test_a_private_key_with_a_passphrase_is_not_replaced(folder: Path) -> None:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "passphrase", "-f", str(folder / "id_ed25519")]
    subprocess.run(argv, check=True)
    (folder / "id_ed25519.pub").unlink()
    before = (folder / "id_ed25519").read_bytes()
    assert code_of(folder) == "no_key"
    assert (folder / "id_ed25519").read_bytes() == before
    assert not (folder / "id_ed25519.pub").exists()


def test_a_home_in_which_no_key_can_be_made_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".ssh").write_text("a file")
    assert code_of(tmp_path / ".ssh") == "no_key"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_of(tmp_path / "other") == "no_key"


def test_two_first_uses_at_once_make_one_key(tmp_path: Path) -> None:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(chosen(tmp_path / ".ssh"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(keys == found[0] for keys in found)
