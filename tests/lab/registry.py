"""A registry of a lab: its access log, its storage, and ways to damage it."""

import base64
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab import images, pki
from tests.lab.engine import Engine
from tests.lab.host import BedError
from tests.lab.networks import LABEL

Auth = tuple[str, str]

LINE = re.compile(
    r'^(?P<client>\S+) \S+ \S+ \[[^]]*\] "(?P<method>[A-Z]+) (?P<path>\S+) [^"]*" (?P<status>\d{3}) (?P<size>\d+)'
)
DIGEST = re.compile(r"digest: (sha256:[0-9a-f]{64})")
WAIT_SECONDS = 30


@dataclass(frozen=True)
class Access:
    """A request that the registry has answered; `size` is the size of the response body in bytes."""

    client: str
    method: str
    path: str
    status: int
    size: int


def parse_access(log: str) -> list[Access]:
    found = [match for line in log.splitlines() if (match := LINE.match(line))]
    return [Access(m["client"], m["method"], m["path"], int(m["status"]), int(m["size"])) for m in found]


@dataclass(frozen=True)
class Registry:
    engine: Engine
    name: str
    ip: str
    port: int
    folder: Path
    auth: Auth | None = None

    @property
    def address(self) -> str:
        """HOST:PORT, the same for nodes and for programs on this machine."""
        return f"{self.ip}:{self.port}"

    @property
    def ca(self) -> Path:
        return pki.ca_certificate(self.engine.root)

    @property
    def storage(self) -> Path:
        return self.engine.folder / "data/volumes" / self.name / "_data/docker/registry/v2"

    def create(self, prefix: str, network: str) -> None:
        pki.issue(self.engine.root, self.folder, [f"IP:{self.ip}"])
        if self.auth:
            (self.folder / "credentials").write_text(":".join(self.auth) + "\n")
            self._write_client_config(*self.auth)
        label = ("--label", f"{LABEL}={prefix}")
        self.engine.docker("volume", "create", *label, self.name)
        where = ("--network", network, "--ip", self.ip, "-e", f"REGISTRY_HTTP_ADDR=0.0.0.0:{self.port}")
        mounts = ("-v", f"{self.folder}:/etc/lab:ro", "-v", f"{self.name}:/var/lib/registry")
        self.engine.docker("run", "-d", "--init", "--name", self.name, *label, *where, *mounts, images.REGISTRY)

    def _write_client_config(self, user: str, password: str) -> None:
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        (self.folder / "config.json").write_text(json.dumps({"auths": {self.address: {"auth": token}}}))

    def wait(self) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            try:
                socket.create_connection((self.ip, self.port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise BedError(f"{self.name} does not answer at {self.address}")

    def stop(self) -> None:
        self.engine.docker("stop", "-t", "1", self.name)

    def start(self) -> None:
        self.engine.docker("start", self.name)
        self.wait()

    def restart(self) -> None:
        """Restart the registry, which also clears its cache of blob descriptors."""
        self.stop()
        self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause the registry: connections are accepted and not answered."""
        self.engine.docker("pause", self.name)
        try:
            yield
        finally:
            self.engine.docker("unpause", self.name)

    def push(self, image: str, name: str) -> str:
        """Push an image of the outer engine as `name` (REPOSITORY:TAG); return the digest of its manifest."""
        reference = f"{self.address}/{name}"
        config = ("--config", self.folder) if self.auth else ()
        self.engine.docker("tag", image, reference)
        try:
            pushed = self.engine.docker(*config, "push", reference)
        finally:
            self.engine.docker("rmi", reference)
        found = DIGEST.search(pushed)
        if not found:
            raise BedError(f"docker push {reference} named no digest: {pushed}")
        return found[1]

    def access_log(self) -> list[Access]:
        """Return all requests since the lab was started, oldest first, also those before a restart."""
        done = self.engine.try_docker("logs", self.name)
        return parse_access(done.stdout)

    def digest(self, name: str) -> str:
        """Return the manifest digest of an image (REPOSITORY:TAG) from storage."""
        repository, tag = name.rsplit(":", 1)
        return (self.storage / "repositories" / repository / "_manifests/tags" / tag / "current/link").read_text()

    def layers(self, name: str) -> list[str]:
        """Return the digests of an image's layers, the lowest first."""
        manifest = json.loads(self.blob(self.digest(name)).read_text())
        return [layer["digest"] for layer in manifest["layers"]]

    def blob(self, digest: str) -> Path:
        """Return the file of a blob; the registry does not notice changes to it."""
        algorithm, digits = digest.split(":")
        return self.storage / "blobs" / algorithm / digits[:2] / digits / "data"

    def delete_blob(self, digest: str) -> None:
        self.blob(digest).unlink()

    def truncate_blob(self, digest: str, size: int | None = None) -> None:
        """Cut a blob to `size` bytes, by default to half its size."""
        path = self.blob(digest)
        os.truncate(path, path.stat().st_size // 2 if size is None else size)

    def flip_byte(self, digest: str) -> None:
        """Change one byte in the middle: the size stays right, the digest does not."""
        path = self.blob(digest)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)


def fetched_blobs(log: Sequence[Access]) -> list[str]:
    """Return the digests of the downloaded blobs, one entry for each download."""
    return [
        a.path.rsplit("/", 1)[1] for a in log if a.method == "GET" and "/blobs/sha256:" in a.path and a.status < 400
    ]
