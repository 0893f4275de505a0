"""What an engine says of its network: a real one, and a `docker` that says what no engine of a test would."""

import json
from pathlib import Path

import pytest

from provisioner.adapters.engine.network import engine_network
from provisioner.domain.registry.interference import EngineNetwork
from tests.lab.engine import Engine

TOLD = {
    "RegistryConfig": {"Mirrors": ["https://hub.campus/"]},
    "HttpProxy": "http://p:1",
    "HttpsProxy": "",
    "NoProxy": "localhost",
}


def says(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, code: int = 0) -> None:
    program = folder / "docker"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_mirrors_and_proxies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(tmp_path, monkeypatch, json.dumps(TOLD))
    assert engine_network() == EngineNetwork(
        mirrors=("https://hub.campus/",), http_proxy="http://p:1", no_proxy="localhost"
    )


@pytest.mark.parametrize("text", ["", "no daemon", "[]", "null", '{"RegistryConfig": 3}', '{"HttpProxy": 3}'])
def test_an_engine_that_makes_no_sense_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    says(tmp_path, monkeypatch, text, 1)
    assert engine_network() is None


def test_a_daemon_that_is_down_has_no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker's client prints its own part all the same."""
    says(tmp_path, monkeypatch, json.dumps({"ServerErrors": ["is it running?"], "RegistryConfig": None}), 1)
    assert engine_network() == EngineNetwork()


def test_no_docker_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert engine_network() is None


@pytest.mark.lab
def test_a_real_engine(testbed: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in testbed.client_env().items():
        monkeypatch.setenv(name, value)
    told = engine_network()
    assert told is not None
    assert told.mirrors == ()
