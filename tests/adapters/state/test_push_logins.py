"""The login of this control machine for pushes: private, one for each registry, and absent if its file is damaged."""

from pathlib import Path

import pytest

from provisioner.adapters.registry.docker_config import find_login
from provisioner.adapters.registry.htpasswd import make_push_login
from provisioner.adapters.state.files import state_home
from provisioner.adapters.state.push_logins import PushLogin, PushLogins
from provisioner.domain.values.problem import ProblemError

LOGIN = PushLogin(registry="r.lab:5000", address="r.lab:5001", user="ann", password="open sesame", entry="ann:hash")


def test_a_login_is_private_and_found_by_the_address_that_nodes_read_from() -> None:
    PushLogins().save(LOGIN)
    assert PushLogins().find("r.lab:5000") == LOGIN
    assert PushLogins().find("r.lab:5001") is None
    (path,) = (state_home() / "push_logins").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert "sesame" not in repr(LOGIN)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b" " * (1 << 17)])
def test_a_damaged_file_counts_as_no_login(tmp_path: Path, content: bytes) -> None:
    logins = PushLogins(tmp_path)
    logins.save(LOGIN)
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    assert logins.find("r.lab:5000") is None


def test_the_login_is_sent_to_no_other_address() -> None:
    environment = {"DOCKER_AUTH_CONFIG": LOGIN.docker_config(), "HOME": "/nowhere"}
    found = find_login("r.lab:5001", environment, "provisioner/lab")
    assert found is not None
    assert (found.user, found.secret) == ("ann", "open sesame")
    assert find_login("r.lab:5000", environment, "provisioner/lab") is None


def test_each_login_has_a_user_and_a_password_of_its_own() -> None:
    made = [make_push_login("r.lab:5000", "r.lab:5001", "ann@control1") for _ in range(2)]
    assert len({login.user for login in made}) == len({login.password for login in made}) == 2
    assert all(login.user.startswith("ann@control1-") and len(login.password) > 40 for login in made)


def test_a_machine_without_bcrypt_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.util.find_library", lambda _: "libc.so.6")
    with pytest.raises(ProblemError) as caught:
        make_push_login("r.lab:5000", "r.lab:5001", "ann@control1")
    assert caught.value.problems[0].code == "no_bcrypt"
