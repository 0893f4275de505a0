from pathlib import Path

import pytest

from provisioner.adapters.user import read_user_keys, seat_root
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
