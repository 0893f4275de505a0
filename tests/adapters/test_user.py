import os
import pwd
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from provisioner.adapters.state.files import state_home, write_text
from provisioner.adapters.state.json_cache import JsonCache
from provisioner.adapters.user import account, holder, read_user_keys, seat_root
from provisioner.domain.values.problem import ProblemError
from tests.adapters.lab.sshkeys import A_PRIVATE_KEY, AN_ED25519, AN_RSA


def test_user_keys_are_the_public_keys_in_ssh_without_duplicates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_user_keys() == ()
    (tmp_path / ".ssh").mkdir()
    for name, text in {
        "a.pub": AN_ED25519,
        "b.pub": f"{AN_RSA}\n{AN_ED25519}",
        "c.pub": A_PRIVATE_KEY,
        "id": AN_RSA,
    }.items():
        (tmp_path / ".ssh" / name).write_text(text)
    assert read_user_keys() == (AN_ED25519, AN_RSA)


@pytest.mark.parametrize(("value", "directory"), [("/x/data", "/x/data"), ("relative", "")])
def test_the_directory_of_the_users_seat_follows_xdg(
    value: str, directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", value)
    assert seat_root() == Path(directory or tmp_path / ".local" / "share") / "provisioner"


def test_a_user_without_an_account_has_a_number_and_no_home_and_writes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs under a number alone."""

    def no_entry(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert holder().startswith("54321@")
    for function, code in ((account, "no_account"), (state_home, "no_home")):
        with pytest.raises(ProblemError) as refused:
            function()
        assert (refused.value.ending, refused.value.problems[0].code) == ("usage", code)
    assert JsonCache("file.json", TypeAdapter(int), limit=20).read() is None
    write_text(tmp_path / "lab/hosts.yml", "all: {}\n")
    assert (tmp_path / "lab/hosts.yml").read_text() == "all: {}\n"
