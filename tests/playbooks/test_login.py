"""Where a node finds the login of root for the lab's registry: the same places as the control machine."""

import json
import os
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters.registry import docker_config
from tests.adapters.registry.test_docker_config import CONFIGS, encoded, make_helpers, write
from tests.playbooks.node_code import module_util

login = module_util("docker.login")
engine = module_util("docker.engine")
HOST = "registry.lab:5000"
AUTH = {"auth": b64encode(b"ann:secret").decode()}
ANN = {"username": "ann", "password": "secret"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    scripts = {
        "good": 'read host; echo "{\\"Username\\": \\"ann\\", \\"Secret\\": \\"secret\\"}"',
        "token": 'echo \'{"Username": "<token>", "Secret": "t"}\'',
        "empty": "echo credentials not found; exit 1",
        "odd": "echo hello",
    }
    for name, script in scripts.items():
        program = tmp_path / f"docker-credential-{name}"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ([], None),
        ({"auths": {HOST: AUTH}}, ANN),
        ({"auths": {f"https://{HOST}/v1/": AUTH}}, ANN),
        ({"auths": {"registry.lab": AUTH}}, None),
        ({"auths": {HOST: {"auth": AUTH["auth"] + "\n"}}}, ANN),
        ({"auths": {HOST: {"auth": "x"}}}, None),
        ({"auths": {HOST: {"username": "ann", "password": "secret"}}}, ANN),
        ({"auths": {HOST: {"identitytoken": "t"}}}, {"identitytoken": "t", "serveraddress": HOST}),
        ({"credsStore": "good"}, ANN),
        ({"credHelpers": {HOST: "good"}, "credsStore": "odd"}, ANN),
        ({"credsStore": "token"}, {"identitytoken": "t", "serveraddress": HOST}),
        ({"credsStore": "empty", "auths": {HOST: AUTH}}, ANN),
        ({"credsStore": "odd"}, None),
        ({"credsStore": "../bin/sh"}, None),
        ({"credsStore": "missing"}, None),
    ],
)
def test_login_is_found_where_docker_finds_it(home: Path, config: Any, expected: dict[str, str] | None) -> None:
    (home / "config.json").write_text(json.dumps(config))
    assert login.find_login(HOST) == expected
    header = engine._login(f"{HOST}/provisioner/lab")
    assert bool(header) == (expected is not None)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_a_configuration_that_cannot_be_read_is_no_login(home: Path, text: str) -> None:
    (home / "config.json").write_text(text)
    assert login.find_login(HOST) is None


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without logins, and credential helpers on PATH."""
    make_helpers(tmp_path / "bin")
    for name in ("DOCKER_CONFIG", "DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path


@pytest.mark.parametrize("name", CONFIGS)
def test_a_node_reads_a_configuration_as_the_control_machine_does(places: Path, name: str) -> None:
    config, host, expected = CONFIGS[name]
    write(places / ".docker/config.json", config)
    found = login.find_login(host, "pytorch/pytorch")
    is_token = found is not None and "identitytoken" in found
    assert is_token == bool(expected and expected[1])
    assert (found or {}).get("username") == (None if expected is None or is_token else expected[0])


PLACES = {
    "DOCKER_AUTH_CONFIG": "",
    "DOCKER_CONFIG": "docker/config.json",
    "REGISTRY_AUTH_FILE": "auth.json",
    "XDG_RUNTIME_DIR": "run/containers/auth.json",
    "XDG_CONFIG_HOME": "config/containers/auth.json",
    "HOME": ".config/containers/auth.json",
}


@pytest.mark.parametrize("variable", PLACES)
def test_a_node_looks_where_the_control_machine_looks(
    places: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    config, path = {"auths": {f"{HOST}/provisioner": encoded("ann")}}, places / PLACES[variable]
    if path == places:
        monkeypatch.setenv(variable, json.dumps(config))
    else:
        write(path, config)
        folder = PLACES[variable].partition("/")[0] if variable != "HOME" else ""
        monkeypatch.setenv(variable, str(places / folder))
    control = docker_config.find_login(HOST, os.environ, "provisioner/lab")
    assert control is not None
    node = {"username": control.user, "password": control.secret}
    assert login.find_login(HOST, "provisioner/lab") == login.find_login(HOST) == node
    assert login.find_login(HOST, "other/lab") is docker_config.find_login(HOST, os.environ, "other/lab") is None
    assert engine._login(f"{HOST}/provisioner/lab@sha256:0")
    assert engine._login(f"{HOST}/other/lab@sha256:0") == {}
