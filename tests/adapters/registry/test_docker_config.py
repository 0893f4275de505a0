"""Where logins are found, in which order, and how unusable ones are reported."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters.registry.docker_config import UnusableLogin, find_login

HOST = "mirror.lab:5200"
SECRET = "correct-horse-battery"


def encoded(user: str) -> dict[str, str]:
    return {"auth": b64encode(f"{user}:{SECRET}".encode()).decode()}


def write(path: Path, config: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config if isinstance(config, str) else json.dumps(config))


def helper(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def make_helpers(bin_: Path) -> None:
    helper(bin_, "good", 'read host; echo "{\\"Username\\":\\"$host\\",\\"Secret\\":\\"s\\"}"')
    helper(bin_, "token", 'echo \'{"Username":"<token>","Secret":"s"}\'')
    helper(bin_, "empty", "echo credentials not found in native keychain; exit 1")
    helper(bin_, "locked", f"echo {SECRET} is locked >&2; exit 1")
    helper(bin_, "pass", 'echo \'{"ServerURL":"","Username":"","Secret":""}\'')
    helper(bin_, "odd", "echo hello")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_helpers(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path


def login_of(home: Path, host: str = HOST, **more: str) -> tuple[str, bool] | None:
    environment = {"HOME": str(home), "PATH": f"{home / 'bin'}:/usr/bin:/bin", **more}
    found = find_login(host, environment, "pytorch/pytorch")
    return None if found is None else (found.user, found.token)


CONFIGS: dict[str, tuple[Any, str, tuple[str, bool] | None]] = {
    "nothing": ({}, HOST, None),
    "entry": ({"auths": {HOST: encoded("alice")}}, HOST, ("alice", False)),
    "entry as a URL": ({"auths": {f"https://{HOST}/v1/": encoded("alice")}}, HOST, ("alice", False)),
    "entry of another port": ({"auths": {"mirror.lab:5201": encoded("alice")}}, HOST, None),
    "entry without content": ({"auths": {HOST: {}}}, HOST, None),
    "plain entry": ({"auths": {HOST: {"username": "bob", "password": "x"}}}, HOST, ("bob", False)),
    "identity token": ({"auths": {HOST: {"identitytoken": "x"}}}, HOST, ("", True)),
    "Docker Hub": ({"auths": {"https://index.docker.io/v1/": encoded("alice")}}, "docker.io", ("alice", False)),
    "helper of the host": (
        {"credHelpers": {HOST: "good"}, "credsStore": "odd", "auths": {HOST: encoded("alice")}},
        HOST,
        (HOST, False),
    ),
    "store": ({"credsStore": "good"}, HOST, (HOST, False)),
    "store and Docker Hub": ({"credsStore": "good"}, "docker.io", ("https://index.docker.io/v1/", False)),
    "store with a token": ({"credsStore": "token"}, HOST, ("<token>", True)),
    "empty store": ({"credsStore": "empty"}, HOST, None),
    "empty store, entry": ({"credsStore": "empty", "auths": {HOST: encoded("alice")}}, HOST, ("alice", False)),
    "store that answers without content": (
        {"credsStore": "pass", "auths": {HOST: encoded("alice")}},
        HOST,
        ("alice", False),
    ),
    "entry of a namespace": (
        {"auths": {f"{HOST}/other": encoded("bob"), HOST: encoded("alice")}},
        HOST,
        ("alice", False),
    ),
    "longest entry": (
        {
            "auths": {
                HOST: encoded("bob"),
                f"{HOST}/pytorch": encoded("eve"),
                f"{HOST}/pytorch/pytorch": encoded("alice"),
            }
        },
        HOST,
        ("alice", False),
    ),
    "entry of a name that only begins the same": ({"auths": {f"{HOST}/pytorch/py": encoded("bob")}}, HOST, None),
    "base64 with line ends": ({"auths": {HOST: {"auth": encoded("alice")["auth"] + "\n"}}}, HOST, ("alice", False)),
    "entry of another case": ({"auths": {HOST: {"Auth": encoded("alice")["auth"]}}}, HOST, ("alice", False)),
    "entry of the host after one as a URL": (
        {"auths": {f"https://{HOST}": encoded("bob"), HOST: encoded("alice")}},
        HOST,
        ("alice", False),
    ),
    "odd tables": ({"credHelpers": None, "auths": []}, HOST, None),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_login_is_found_in_docker_configuration(home: Path, name: str) -> None:
    config, host, expected = CONFIGS[name]
    write(home / ".docker/config.json", config)
    assert login_of(home, host) == expected


UNUSABLE: dict[str, tuple[Any, str]] = {
    "not JSON": ("{", "not valid JSON"),
    "not a table": ([], "not a Docker configuration"),
    "damaged entry": ({"auths": {HOST: {"auth": "%%%"}}}, "damaged"),
    "entry without a colon": ({"auths": {HOST: {"auth": b64encode(SECRET.encode()).decode()}}}, "damaged"),
    "helper not installed": ({"credsStore": "absent"}, "docker-credential-absent, which is not installed"),
    "helper fails": ({"credsStore": "locked"}, "ended with code 1"),
    "helper without JSON": ({"credsStore": "odd"}, "no credentials"),
    "helper of a bad name": ({"credsStore": "../../bin/sh"}, "invalid name"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_login_names_its_file_and_no_secret(home: Path, name: str) -> None:
    config, words = UNUSABLE[name]
    write(home / ".docker/config.json", config)
    with pytest.raises(UnusableLogin, match=words) as refused:
        login_of(home)
    assert str(home / ".docker/config.json") in str(refused.value)
    assert SECRET not in str(refused.value)


def test_docker_configuration_comes_before_podmans(home: Path) -> None:
    write(home / "run/containers/auth.json", {"auths": {HOST: encoded("podman")}})
    write(home / "other/config.json", {"auths": {HOST: encoded("named")}})
    runtime = {"XDG_RUNTIME_DIR": str(home / "run")}
    assert login_of(home, **runtime) == ("podman", False)
    write(home / ".docker/config.json", {"auths": {HOST: encoded("docker")}})
    assert login_of(home, **runtime) == ("docker", False)
    assert login_of(home, DOCKER_CONFIG=str(home / "other"), **runtime) == ("named", False)


def test_repr_of_login_holds_no_secret(home: Path) -> None:
    write(home / ".docker/config.json", {"auths": {HOST: encoded("alice")}})
    found = find_login(HOST, {"HOME": str(home)})
    assert found is not None
    assert (found.secret, SECRET in repr(found)) == (SECRET, False)


def test_login_in_the_environment_is_first(home: Path) -> None:
    write(home / ".docker/config.json", {"auths": {HOST: encoded("bob")}})
    assert login_of(home, DOCKER_AUTH_CONFIG=json.dumps({"auths": {HOST: encoded("alice")}})) == ("alice", False)
    assert login_of(home, DOCKER_AUTH_CONFIG="{}") == ("bob", False)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "[]"])
def test_login_in_the_environment_that_cannot_be_read_is_named(home: Path, text: str) -> None:
    with pytest.raises(UnusableLogin, match="DOCKER_AUTH_CONFIG"):
        login_of(home, DOCKER_AUTH_CONFIG=text)
