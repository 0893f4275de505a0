"""Where a node finds the login of root for the lab's registry: the same places as the control machine."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

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
