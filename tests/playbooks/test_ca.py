"""The CA of the registry, made by the real openssl and tested with a real TLS handshake."""

import getpass
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.node_code import ProblemError, module_util

ca: Any = module_util("prepare.ca")
registry_check: Any = module_util("prepare.registry_check")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ca, "FOLDER", tmp_path / "tls")
    return tmp_path / "tls"


def certify(*hosts: str) -> None:
    ca.issue_certificate(hosts, getpass.getuser())


def test_private_keys_are_readable_by_their_owner_only(folder: Path) -> None:
    ca.make_ca("demo")
    certify("127.0.0.1")
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {"ca.key": 0o600, "server.key": 0o600, "ca.crt": 0o644, "server.crt": 0o644, "names": 0o644}


def test_a_ca_that_cannot_be_read_is_not_taken_for_a_missing_one(folder: Path) -> None:
    (folder / "ca.crt").mkdir(parents=True)  # reading it fails, as it does on a damaged disk
    with pytest.raises(ProblemError, match="Is a directory"):
        ca.read_ca()


def test_a_certificate_is_invalid_for_another_name_by_another_ca_or_without_its_key(folder: Path) -> None:
    ca.make_ca("demo")
    assert not ca.has_valid_certificate(["registry.lab"])
    certify("registry.lab")
    assert ca.has_valid_certificate(["registry.lab"])
    assert not ca.has_valid_certificate(["198.18.0.3"])
    ca.make_ca("demo")
    assert not ca.has_valid_certificate(["registry.lab"])
    certify("registry.lab")
    assert ca.has_valid_certificate(["registry.lab"])
    certify("registry.lab", "127.0.0.1")
    assert ca.has_valid_certificate(["registry.lab", "127.0.0.1"])
    assert not ca.has_valid_certificate(["registry.lab"])
    (folder / "server.key").unlink()
    assert not ca.has_valid_certificate(["registry.lab", "127.0.0.1"])


class _Registry(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Keep the output of the tests clean."""


@contextmanager
def serving(folder: Path, status: int = 200) -> Iterator[str]:
    handler = type("Handler", (_Registry,), {"status": status})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
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


def test_the_registry_check_accepts_only_the_given_ca_and_reports_a_missing_login(
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
        (tmp_path / "config.json").write_text(f'{{"auths": {{"{address}": {{"auth": "dTpw"}}}}}}')
        assert codes(address, ca.read_ca()) == []
    assert codes(address, ca.read_ca()) == ["registry_unreachable"]
