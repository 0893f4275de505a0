"""The distribution project's registry, as Debian packages it, on loopback, with access to its files."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.host import registry_program

_SECONDS = 20


@dataclass(frozen=True)
class RealRegistry:
    host: str
    root: Path

    def blob(self, digest: str) -> Path:
        name = digest.removeprefix("sha256:")
        return self.root / f"docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data"

    def links(self, digest: str) -> list[Path]:
        """Return the files by which repositories link to a layer or config."""
        name = digest.removeprefix("sha256:")
        return list(self.root.glob(f"docker/registry/v2/repositories/*/*/_layers/sha256/{name}/link"))

    @property
    def log(self) -> Path:
        """The registry's log: among others, one line for each answered request."""
        return self.root.with_suffix(".log")

    def size(self) -> int:
        return sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())


@contextmanager
def real_registry(place: Path, *, cached: bool = True, **more: Mapping[str, Any]) -> Iterator[RealRegistry]:
    """`cached`: with the descriptor cache of the stock configuration. `more`: further top-level keys of it."""
    binary = registry_program()
    port = free_port()
    storage: dict[str, Any] = {"filesystem": {"rootdirectory": str(place)}, "delete": {"enabled": True}}
    if cached:
        storage["cache"] = {"blobdescriptor": "inmemory"}
    config = {"version": 0.1, "log": {"level": "error"}, "storage": storage, **more}
    config["http"] = {"addr": f"127.0.0.1:{port}", **more.get("http", {})}
    place.mkdir(parents=True, exist_ok=True)
    written = place.with_suffix(".yml")
    written.write_text(yaml.safe_dump(config))
    with place.with_suffix(".log").open("wb") as log:
        # The collector of Go takes a third of the processor time of so small a heap.
        environment = os.environ | {"GOGC": "1000"}
        process = subprocess.Popen([binary, "serve", str(written)], stdout=log, stderr=log, env=environment)
        try:
            _await(port, process, place.with_suffix(".log"))
            yield RealRegistry(f"127.0.0.1:{port}", place)
        finally:
            process.kill()
            process.wait()


def free_port() -> int:
    """Return a port of loopback that no program uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            connection = HTTPConnection("127.0.0.1", port, timeout=1)
            connection.request("GET", "/v2/")
            connection.getresponse().read()
            connection.close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"docker-registry did not start: {log.read_text()}")
