from pathlib import Path

import pytest

from provisioner.adapters.user import own_keys, seat_root
from tests.adapters.lab.sshkeys import A_PRIVATE_KEY, AN_ED25519, AN_RSA


def test_the_public_keys_of_a_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert own_keys() == ()
    (tmp_path / ".ssh").mkdir()
    for name, text in {
        "a.pub": AN_ED25519,
        "b.pub": f"{AN_RSA}\n{AN_ED25519}",
        "c.pub": A_PRIVATE_KEY,
        "id": AN_RSA,
    }.items():
        (tmp_path / ".ssh" / name).write_text(text)
    assert own_keys() == (AN_ED25519, AN_RSA)


@pytest.mark.parametrize(("named", "kept"), [("/x/data", "/x/data"), ("relative", "")])
def test_where_ones_own_seat_is_kept(named: str, kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", named)
    assert seat_root() == Path(kept or tmp_path / ".local" / "share") / "provisioner"
