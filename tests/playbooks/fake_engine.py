"""The part of the Docker Engine API that the node code uses: a real server on a real socket, with state in lists."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from queue import Queue
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class FakeEngine:
    """`pulls` are the answers to pulls, in order: progress messages, or a status. A complete pull adds `brings`."""

    def __init__(self) -> None:
        self.info: dict[str, Any] = {"ServerVersion": "26.1.5", "DockerRootDir": "/", "Runtimes": {}}
        self.images: dict[str, dict[str, Any]] = {}
        self.containers: list[dict[str, Any]] = []
        self.networks: list[dict[str, Any]] = []
        self.inspected: dict[str, dict[str, Any]] = {}
        self.pulls: list[list[dict[str, Any]] | int] = []
        self.brings: tuple[str, dict[str, Any]] | None = None
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.events: Queue[bytes | None] | None = None  # what the stream of events sends, None at its end

    def answer(self, method: str, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        if path in {"/info", "/version"}:
            return 200, self.info
        kind, _, name = path.strip("/").partition("/")
        if kind == "networks":
            return 200, self._about_network(method, name)
        if kind == "containers":
            return self._about_container(method, name, query)
        return self._about_image(method, name, query)

    def _about_container(self, method: str, name: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        if name == "json":
            return 200, self._containers(query)
        return (204, None) if method == "DELETE" else (200, self.inspected[name.removesuffix("/json")])

    def _about_network(self, method: str, name: str) -> Any:
        if method == "DELETE":
            self.networks = [network for network in self.networks if network["Id"] != name]
        return next((network for network in self.networks if network["Id"] == name), self.networks)

    def _about_image(self, method: str, name: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        if name == "json":
            return 200, list(self.images.values())
        if method == "DELETE":
            return (200, []) if self._forget(name) else (404, {"message": "no such image"})
        if name.endswith("/tag"):
            self._tag(name.removesuffix("/tag"), f"{query['repo'][0]}:{query['tag'][0]}")
            return 201, None
        found = self._image(name.removesuffix("/json"))
        return (200, found) if found else (404, {"message": "no such image"})

    def _containers(self, query: dict[str, list[str]]) -> list[dict[str, Any]]:
        filters = {key: words for text in query.get("filters", []) for key, words in json.loads(text).items()}
        found = [c for c in self.containers if "id" not in filters or c["Id"] in filters["id"]]
        return [c for c in found if all(_has(c, *label.split("=", 1)) for label in filters.get("label", []))]

    def _image(self, name: str) -> dict[str, Any] | None:
        return self.images.get(name) or next((i for i in self.images.values() if name in i.get("RepoTags", ())), None)

    def _tag(self, name: str, tag: str) -> None:
        tags = self.images[name].setdefault("RepoTags", [])
        tags += [tag] if tag not in tags else []

    def _forget(self, name: str) -> bool:
        for image in self.images.values():
            if name in image.get("RepoTags", ()):
                image["RepoTags"].remove(name)
                return True
        return self.images.pop(name, None) is not None


def _has(container: dict[str, Any], name: str, value: str | None = None) -> bool:
    labels = container["Labels"] or {}
    return name in labels and value in {None, labels[name]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: FakeEngine

    def _do(self) -> None:
        url = urlsplit(self.path)
        self.engine.requests.append(f"{self.command} {self.path}")
        self.engine.headers.append(dict(self.headers))
        if url.path == "/images/create":
            self._pull()
            return
        if url.path == "/events" and self.engine.events is not None:
            self._send_events(self.engine.events)
            return
        status, document = self.engine.answer(self.command, unquote(url.path), parse_qs(url.query))
        body = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body:  # the client may have closed the connection of an answer without one
            self.wfile.write(body)

    do_GET = do_POST = do_DELETE = _do  # noqa: N815  (names that http.server looks for)

    def _pull(self) -> None:
        answer = self.engine.pulls.pop(0)
        self.send_response(answer if isinstance(answer, int) else 200)
        self.send_header("Connection", "close")
        self.end_headers()
        if isinstance(answer, int):
            self.wfile.write(json.dumps({"message": "manifest unknown"}).encode())
            return
        for line in answer:
            self.wfile.write(json.dumps(line).encode() + b"\r\n")
        if self.engine.brings and not any("error" in line for line in answer):
            self.engine.images[self.engine.brings[0]] = self.engine.brings[1]

    def _send_events(self, events: Queue[bytes | None]) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while event := events.get():
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Keep the output of the tests clean."""

    def address_string(self) -> str:
        return "unix"


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


@contextmanager
def serving(engine: FakeEngine, socket: Path) -> Iterator[FakeEngine]:
    handler = type("Handler", (_Handler,), {"engine": engine})
    with _Server(str(socket), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield engine
        finally:
            server.shutdown()
            thread.join()


def a_container(service: str, health: str | None = "healthy", name: str = "", **over: Any) -> dict[str, Any]:
    """Return a container as the engine describes it. `over`: Status, RestartCount, StartedAt."""
    state = {"Status": over.get("Status", "running"), "StartedAt": over.get("StartedAt", "t0")}
    return {
        "Id": name or service,
        "Name": f"/{name or service}",
        "State": state | ({"Health": {"Status": health}} if health else {}),
        "RestartCount": over.get("RestartCount", 0),
        "HostConfig": {"PortBindings": {"2222/tcp": [{"HostIp": "127.0.0.1", "HostPort": "22000"}]}},
        "service": service,
    }


def add_containers(
    engine: FakeEngine, *containers: dict[str, Any], seat: str = "demo-student", own: dict[str, str] | None = None
) -> None:
    """Add containers of a compose project. `own`: their labels beside those of compose, if not those of a seat."""
    for container in containers:
        labels = {
            "com.docker.compose.project": seat,
            "com.docker.compose.service": container["service"],
            **({"provisioner.seat": seat} if own is None else own),
        }
        listed = {"Id": container["Id"], "Names": [container["Name"]], "Labels": labels}
        engine.containers.append(listed | {"State": container["State"]["Status"]})
        engine.inspected[container["Id"]] = container
