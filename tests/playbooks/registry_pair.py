"""The two processes of a managed registry: the real program, on loopback, with the configurations of the node code."""

import getpass
import socket
import ssl
import subprocess
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters.registry.htpasswd import make_push_login
from provisioner.adapters.state.push_logins import PushLogin
from tests.adapters.registry.real_registry import free_port
from tests.lab.host import registry_program
from tests.playbooks.node_code import module_util

ca: Any = module_util("prepare.ca")
process: Any = module_util("prepare.registry_process")
gc: Any = module_util("prepare.gc")


@dataclass(frozen=True)
class RegistryPair:
    """Addresses of both processes, which share a store; `login` is that of the control machine."""

    reader: str
    pusher: str
    login: PushLogin
    ca: Path

    def connect(self, address: str) -> HTTPSConnection:
        return HTTPSConnection(address, timeout=10, context=ssl.create_default_context(cafile=str(self.ca)))

    def status(self, address: str, method: str, path: str, headers: Mapping[str, str] | None = None) -> int:
        with closing(self.connect(address)) as connection:
            connection.request(method, f"/v2/{path}", headers=headers or {})
            return connection.getresponse().status

    @property
    def authorization(self) -> dict[str, str]:
        token = b64encode(f"{self.login.user}:{self.login.password}".encode()).decode()
        return {"Authorization": f"Basic {token}"}


@contextmanager
def registry_pair(folder: Path) -> Iterator[RegistryPair]:
    """Run both processes on loopback, with the configurations that the node code writes, and files in `folder`."""
    reader, pusher = (f"127.0.0.1:{free_port()}" for _ in range(2))
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        move_to(folder, patch)
        ca.make_ca("demo")
        ca.issue_certificate(["127.0.0.1"], getpass.getuser())
        login = make_push_login(reader, pusher, "ann@control1")
        process.add_login(login.entry)
        gc.READER.configuration.write_text(process.reader_configuration(reader))
        gc.PUSHER.configuration.write_text(process.pusher_configuration(pusher))
        stack.enter_context(serving(gc.READER.configuration, reader))
        stack.enter_context(serving(gc.PUSHER.configuration, pusher))
        yield RegistryPair(reader, pusher, login, folder / "tls/ca.crt")


def move_to(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let the node code use a folder of the test, and the account of the test."""
    storage = folder / "store"
    patch.setattr(ca, "FOLDER", folder / "tls")
    patch.setattr(process, "LOGINS", folder / "htpasswd")
    patch.setattr(process, "STORAGE", storage)
    patch.setattr(process, "ACCOUNT", getpass.getuser())
    patch.setattr(gc, "ACCOUNT", getpass.getuser())
    patch.setattr(gc, "AS_ACCOUNT", ())
    patch.setattr(gc, "has_service", lambda: True)
    patch.setattr(gc, "PROGRAM", str(registry_program()))
    patch.setattr(gc, "BLOBS", storage / "docker/registry/v2/blobs")
    patch.setattr(gc, "REPOSITORIES", storage / "docker/registry/v2/repositories")
    for name in ("READER", "PUSHER"):
        patch.setattr(gc, name, getattr(process, name)._replace(configuration=folder / f"{name}.yml"))


@contextmanager
def serving(configuration: Path, address: str) -> Iterator[None]:
    with configuration.with_suffix(".log").open("wb") as log:
        running = subprocess.Popen([registry_program(), "serve", str(configuration)], stdout=log, stderr=log)
        try:
            host, _, port = address.partition(":")
            while running.poll() is None:
                with closing(socket.socket()) as probe:
                    if probe.connect_ex((host, int(port))) == 0:
                        break
            yield
        finally:
            running.kill()
            running.wait()
