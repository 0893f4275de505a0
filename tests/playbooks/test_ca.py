"""The registry's small authority, made by the real openssl and held against a real TLS handshake."""

import getpass
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.node_code import ProblemError, module_util, problem

ca: Any = module_util("prepare.ca")
registry_check: Any = module_util("prepare.registry_check")
registry: Any = module_util("prepare.registry")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ca, "FOLDER", tmp_path / "tls")
    return tmp_path / "tls"


def certify(host: str) -> None:
    ca.issue_certificate(host, getpass.getuser())


def test_private_keys_are_their_owners_alone(folder: Path) -> None:
    ca.make_ca("demo")
    certify("127.0.0.1")
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {"ca.key": 0o600, "server.key": 0o600, "ca.crt": 0o644, "server.crt": 0o644, "names": 0o644}


def test_a_certificate_is_made_anew_for_another_name_or_by_another_authority(folder: Path) -> None:
    ca.make_ca("demo")
    assert not ca.has_valid_certificate("registry.lab")
    certify("registry.lab")
    assert ca.has_valid_certificate("registry.lab")
    assert not ca.has_valid_certificate("198.18.0.3")
    ca.make_ca("demo")
    assert not ca.has_valid_certificate("registry.lab")
    certify("registry.lab")
    assert ca.has_valid_certificate("registry.lab")
    (folder / "server.key").unlink()
    assert not ca.has_valid_certificate("registry.lab")


class _Registry(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


@contextmanager
def serving(folder: Path, status: int = 200) -> Iterator[str]:
    handler = type("Handler", (_Registry,), {"status": status})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def codes(address: str, ca: str | None) -> list[str]:
    return [
        found["code"] for found in registry_check.check_registry({"address": address, "ca": ca, "plain_http": False})
    ]


def test_a_node_reaches_it_by_this_authority_and_by_no_other(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    ca.make_ca("demo")
    certify("127.0.0.1")
    with serving(folder) as address:
        assert codes(address, ca.read_ca()) == []
        assert codes(address, None) == ["registry_unreachable"]
    with serving(folder, 401) as address:
        assert codes(address, ca.read_ca()) == ["registry_login"]
        (tmp_path / "config.json").write_text(f'{{"auths": {{"{address}": {{"auth": "x"}}}}}}')
        assert codes(address, ca.read_ca()) == []
    assert codes(address, ca.read_ca()) == ["registry_unreachable"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("registry.lab:5000", ("registry.lab", 5000)),
        ("198.18.0.3:5201", ("198.18.0.3", 5201)),
        ("r.lab", ("r.lab", 443)),
    ],
)
def test_where_it_listens(address: str, expected: tuple[str, int]) -> None:
    assert registry.host_and_port(address) == expected


def test_its_configuration_removes_what_is_deleted_and_believes_no_cache() -> None:
    import yaml  # noqa: PLC0415  (of the control machine: a node has none)

    read = yaml.safe_load(registry.configuration(5000))
    assert read["storage"]["delete"] == {"enabled": True}
    assert "cache" not in read["storage"]
    assert read["http"]["addr"] == ":5000"


def test_what_a_person_has_configured_is_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, ran = tmp_path / "config.yml", module_util("base.command").CommandResult
    monkeypatch.setattr(registry, "CONFIGURATION", path)
    conffiles = "\n /etc/init.d/docker-registry aaaa\n"
    monkeypatch.setattr(registry, "run", lambda *_: ran(0, conffiles, ""))
    registry._check_is_ours()
    path.write_text("version: 0.1\n")
    with pytest.raises(ProblemError) as caught:
        registry._check_is_ours()
    assert problem(caught)["code"] == "registry_in_use"
    conffiles += f" {path} {registry.hashlib.md5(path.read_bytes()).hexdigest()}\n"
    registry._check_is_ours()  # as the package brought it
    path.write_text(registry.configuration(5000))
    registry._check_is_ours()
