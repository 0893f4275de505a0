"""Measure how long a node pulls an image of gigabytes over a line of 100 MB/s, also where the registry goes away.

    python -m bench.weight [GB [SECONDS AWAY]...]

The node's own code pulls, by the outer engine of the test bed, from a real registry behind a proxy that lets so many
bytes a second through. For SECONDS the proxy refuses and breaks connections, from the time when half of the image has
come. Needs root, and 3.5 times the size as free disk space. The output of one run is in bench/weight.md.
"""

import hashlib
import json
import os
import socket
import sys
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.adapters.registry.real_registry import RealRegistry, free_port, real_registry
from tests.lab.engine import Engine
from tests.lab.host import cache_dir
from tests.playbooks.node_code import module_util

SHARES = (0.33, 0.25, 0.2, 0.13, 0.07, 0.02)  # of the layers: with 6 GB, three have more than 1 GB
RATE = 100e6  # bytes per second of the line
CHUNK = 1 << 18
BLOCK = 1 << 26
REPOSITORY = "bench/weight"
OCI = "application/vnd.oci.image"
PULL_SECONDS = 3600


class Line:
    """A proxy of a registry, whose connections have RATE together. `away`: it refuses and breaks connections."""

    def __init__(self, target: tuple[str, int]) -> None:
        """Listen on a free port of loopback."""
        self.port, self.passed = free_port(), 0
        self._target, self._next, self._lock = target, time.monotonic(), threading.Lock()
        self._open: set[socket.socket] = set()
        self._listen()

    def _listen(self) -> None:
        self._server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def _accept(self, server: socket.socket) -> None:
        with suppress(OSError):  # the proxy goes away
            while True:
                client = server.accept()[0]
                registry = socket.create_connection(self._target)
                self._open |= {client, registry}
                for pair in ((client, registry), (registry, client)):
                    threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                self._take(len(data))
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _take(self, size: int) -> None:
        with self._lock:
            self.passed += size
            self._next = max(self._next, time.monotonic()) + size / RATE
            wait = self._next - time.monotonic()
        time.sleep(max(wait, 0))

    def go_away(self, seconds: float, after: float) -> None:
        """Go away for so long as soon as `after` bytes have passed."""
        while self.passed < after:
            time.sleep(0.1)
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        time.sleep(seconds)
        self._listen()


def fill(registry: RealRegistry, size: float) -> tuple[str, list[str], int]:
    """Write an image into the storage of a registry. Return the digest of its manifest, its layers and its bytes."""
    sizes = [int(size * share) for share in SHARES]
    layers = [_layer(registry.root, number, bytes_) for number, bytes_ in enumerate(sizes)]
    diffs = [digest for digest, _ in layers]
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diffs}}
    described = [_described("layer.v1.tar", *layer) for layer in layers]
    of_config = _described("config.v1+json", *_put(registry.root, json.dumps(config).encode()))
    manifest = {"schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "config": of_config, "layers": described}
    digest, _ = _put(registry.root, json.dumps(manifest).encode())
    repository = registry.root / "docker/registry/v2/repositories" / REPOSITORY
    for one in [of_config["digest"], *diffs]:
        _link(repository / "_layers", one)
    _link(repository / "_manifests/revisions", digest)
    return digest, diffs, sum(length for _, length in layers)


def _described(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": f"{OCI}.{kind}", "digest": digest, "size": size}


def _layer(root: Path, number: int, size: int) -> tuple[str, int]:
    """Write a layer with one file of random bytes."""
    made = root / f"layer{number}"
    block, digest = os.urandom(BLOCK), hashlib.sha256()
    head = tarfile.TarInfo(f"data{number}")
    head.size = size
    with made.open("wb") as file:

        def write(data: bytes) -> None:
            file.write(data)
            digest.update(data)

        write(head.tobuf())
        for start in range(0, size, BLOCK):
            write(block[: min(BLOCK, size - start)])
        write(bytes(-size % 512 + 1024))
        length = file.tell()
    return _move(root, made, f"sha256:{digest.hexdigest()}"), length


def _put(root: Path, content: bytes) -> tuple[str, int]:
    made = root / "made"
    made.write_bytes(content)
    return _move(root, made, f"sha256:{hashlib.sha256(content).hexdigest()}"), len(content)


def _move(root: Path, made: Path, digest: str) -> str:
    name = digest.partition(":")[2]
    path = root / f"docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data"
    path.parent.mkdir(parents=True)
    made.rename(path)
    return digest


def _link(folder: Path, digest: str) -> None:
    path = folder / digest.replace(":", "/") / "link"
    path.parent.mkdir(parents=True)
    path.write_text(digest)


@contextmanager
def no_image(engine: Engine, reference: str) -> Iterator[None]:
    """Remove the image from the engine at the end."""
    try:
        yield
    finally:
        engine.try_docker("rmi", reference)


def measure(line: Line, image: dict[str, Any], away: float) -> str:
    """Pull once and return a row of the table."""
    if away:
        after = line.passed + image["bytes"] / 2
        threading.Thread(target=line.go_away, args=(away, after), daemon=True).start()
    begun, seen = time.monotonic(), list[tuple[float, str]]()

    def report(text: str, *_: Any) -> None:
        if not seen or seen[-1][1] != text:
            seen.append((time.monotonic() - begun, text))
            print(f"    {seen[-1][0]:6.1f} s  {text[:150]}", flush=True)

    order = {"image": image, "deadlines": {"pull": PULL_SECONDS}}
    module_util("docker.pull").pull(order, report)
    seconds = time.monotonic() - begun
    unpacking = next(at for at, text in seen if text.startswith("unpacking"))
    line_seconds = image["bytes"] / RATE
    return f"| {away:.0f} | {seconds:.0f} | {unpacking:.0f} | {line_seconds:.0f} | {os.getloadavg()[0]:.1f} |"


def main(words: Sequence[str]) -> None:
    """Print a table with a row for each time for which the registry was away."""
    size = float(words[0]) * 1e9 if words else 6e9
    engine = Engine(cache_dir())
    engine.start()
    os.environ.update(engine.client_env())
    with TemporaryDirectory(dir=cache_dir()) as folder, real_registry(Path(folder) / "registry") as registry:
        digest, layers, length = fill(registry, size)
        host, _, port = registry.host.partition(":")
        line = Line((host, int(port)))
        reference = f"127.0.0.1:{line.port}/{REPOSITORY}@{digest}"
        image = {"reference": reference, "platform": "linux/amd64", "rootfs": layers, "bytes": length}
        rows = []
        for away in [float(word) for word in words[1:]] or [0.0]:
            with no_image(engine, reference):
                rows.append(measure(line, image, away))
    print("| away (s) | seconds | nothing left to download after | size / speed | load |\n|--:|--:|--:|--:|--:|")
    print("\n".join(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
