"""read_engine_network with a real engine, and with a fake `docker` program that prints a given text."""

import json
from pathlib import Path

import pytest

from provisioner.adapters.engine.network import read_engine_network
from provisioner.domain.registry.interference import EngineNetwork
from tests.lab.engine import Engine

INFO = {
    "RegistryConfig": {"Mirrors": ["https://hub.campus/"]},
    "HttpProxy": "http://p:1",
    "HttpsProxy": "",
    "NoProxy": "localhost",
}


def fake_docker(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, code: int = 0) -> None:
    program = folder / "docker"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_mirrors_and_proxies_of_the_engine_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_docker(tmp_path, monkeypatch, json.dumps(INFO))
    assert read_engine_network() == EngineNetwork(
        mirrors=("https://hub.campus/",), http_proxy="http://p:1", no_proxy="localhost"
    )


@pytest.mark.parametrize("text", ["", "no daemon", "[]", "null", '{"RegistryConfig": 3}', '{"HttpProxy": 3}'])
def test_output_that_cannot_be_parsed_counts_as_no_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    fake_docker(tmp_path, monkeypatch, text, 1)
    assert read_engine_network() is None


def test_a_daemon_that_is_down_has_no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker's client prints its own part even without a daemon."""
    fake_docker(tmp_path, monkeypatch, json.dumps({"ServerErrors": ["is it running?"], "RegistryConfig": None}), 1)
    assert read_engine_network() == EngineNetwork()


def test_without_docker_there_is_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_engine_network() is None


@pytest.mark.lab
def test_a_real_engine_without_mirrors(testbed: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in testbed.client_env().items():
        monkeypatch.setenv(name, value)
    network = read_engine_network()
    assert network is not None
    assert network.mirrors == ()
