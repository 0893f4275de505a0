"""A scripted registry in memory, for faults that cannot be caused on a real one."""

import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from typing import Literal

from tests.adapters.registry.made_image import Made, digest_of

_RANGES = re.compile(r"bytes=((?:\d+-\d+,?)+)")
_RANGE = re.compile(r"(\d+)-(\d+)")
API = {"Docker-Distribution-Api-Version": "registry/2.0"}


@dataclass(frozen=True)
class ReceivedRequest:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Answer:
    """`announced`: the Content-Length, if it is not the true one. Drips are seconds between bytes sent.

    `ends`: complete; after the status line alone; or with the connection open and no more data.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    announced: int | None = None
    drip: float = 0
    drip_head: float = 0
    ends: Literal["well", "in its head", "in silence"] = "well"


Script = Callable[[ReceivedRequest], Answer | None]


class ScriptedRegistry:
    """`scripts` are called in turn; the registry answers as a healthy one if none returns an answer.

    `asked`: all requests; `delivered`: those that were answered to the last byte. `over`: set when the test ends.
    """

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.asked: list[ReceivedRequest] = []
        self.delivered: list[ReceivedRequest] = []
        self.over = threading.Event()
        self.host = ""
        self.scheme = "http"
        self._manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self._blobs: dict[str, bytes] = {}
        self._tags: dict[str, list[str]] = {}

    def put(self, repository: str, tag: str, image: Made) -> None:
        self._tags.setdefault(repository, []).append(tag)
        for name, body in {**image.others, tag: image.body, digest_of(image.body): image.body}.items():
            kind = image.media_type if body == image.body else str(json.loads(body)["mediaType"])
            self._manifests[repository, name] = (kind, body)
        self._blobs |= image.blobs

    def lose(self, digest: str) -> None:
        del self._blobs[digest]

    def answer(self, asked: ReceivedRequest) -> Answer:
        self.asked.append(asked)
        scripted = (answer for script in self.scripts if (answer := script(asked)) is not None)
        return next(scripted, None) or self._healthy(asked)

    def _healthy(self, asked: ReceivedRequest) -> Answer:
        if asked.path == "/v2/":
            return Answer(200, API, b"{}")
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs|tags)/([^/]+)", asked.path)
        if match is None:
            return Answer(404)
        repository, kind, name = match.groups()
        if kind == "tags":
            tags = self._tags.get(repository)
            return Answer(404) if tags is None else Answer(200, API, json.dumps({"tags": tags}).encode())
        return self._manifest(repository, name) if kind == "manifests" else self._blob(name, asked)

    def _manifest(self, repository: str, name: str) -> Answer:
        found = self._manifests.get((repository, name))
        if found is None:
            return Answer(404, API, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
        return Answer(200, API | {"Content-Type": found[0], "Docker-Content-Digest": digest_of(found[1])}, found[1])

    def _blob(self, digest: str, asked: ReceivedRequest) -> Answer:
        blob = self._blobs.get(digest)
        return Answer(404, API, b'{"errors":[{"code":"BLOB_UNKNOWN"}]}') if blob is None else ranged(blob, asked)


def ranged(blob: bytes, asked: ReceivedRequest) -> Answer:
    """Answer as a file server does, such as Go's or nginx."""
    spans = _RANGES.fullmatch(asked.headers.get("Range", ""))
    if spans is None:
        return Answer(200, {"Content-Type": "application/octet-stream"}, blob)
    wanted = [(int(first), min(int(last), len(blob) - 1)) for first, last in _RANGE.findall(spans[1])]
    if any(first >= len(blob) for first, _ in wanted):
        return Answer(416, {"Content-Range": f"bytes */{len(blob)}"})
    return _one_range(blob, *wanted[0]) if len(wanted) == 1 else _parts(blob, wanted)


def _one_range(blob: bytes, first: int, last: int) -> Answer:
    return Answer(206, {"Content-Range": f"bytes {first}-{last}/{len(blob)}"}, blob[first : last + 1])


def _parts(blob: bytes, wanted: list[tuple[int, int]]) -> Answer:
    heads = (f"\r\n--x\r\nContent-Range: bytes {a}-{b}/{len(blob)}\r\nContent-Type: x/y\r\n\r\n" for a, b in wanted)
    body = b"".join(head.encode() + blob[a : b + 1] for head, (a, b) in zip(heads, wanted, strict=True))
    return Answer(206, {"Content-Type": "multipart/byteranges; boundary=x"}, body + b"\r\n--x--\r\n")


def _send(to: BufferedIOBase, data: bytes, drip: float) -> None:
    if not drip:
        to.write(data)
        return
    for byte in data:
        time.sleep(drip)
        to.write(bytes([byte]))


class _Handler(BaseHTTPRequestHandler):
    registry: ScriptedRegistry
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else two small writes take 40 ms more
    drip: float = 0
    _headers_buffer: list[bytes]

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = ReceivedRequest(self.command, self.path, dict(self.headers), body)
        answer = self.registry.answer(asked)
        self.close_connection = answer.announced is not None or answer.ends != "well"
        try:
            self._send_answer(answer)
        except OSError:  # the client closed the connection
            self.close_connection = True
        else:
            self.registry.delivered.append(asked)

    def _send_answer(self, answer: Answer) -> None:
        length = len(answer.body) if answer.announced is None else answer.announced
        self.drip = answer.drip_head
        self.send_response(answer.status)
        if answer.ends == "in its head":
            self.flush_headers()
            return
        for name, value in {**answer.headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            _send(self.wfile, answer.body, answer.drip)
        if answer.ends == "in silence":
            self.registry.over.wait(20)

    def flush_headers(self) -> None:
        head, self._headers_buffer = b"".join(self._headers_buffer), []
        _send(self.wfile, head, self.drip)

    do_GET = do_HEAD = do_POST = _serve  # noqa: N815  (the base class's names)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
        """Log nothing: `asked` has all requests."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that close the connection: these tests cause it."""


@contextmanager
def served(registry: ScriptedRegistry, tls: ssl.SSLContext | None = None) -> Iterator[ScriptedRegistry]:
    """Serve on a free loopback port, set as `registry.host`."""
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"registry": registry}))
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        registry.scheme = "https"
    registry.host = f"127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield registry
    finally:
        registry.over.set()
        server.shutdown()
        server.server_close()
