"""A small http proxy that forwards and tunnels, and resolves names of its own."""

import select
import socket
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class SmallProxy:
    """`names`: requested HOST:PORT -> HOST:PORT on this machine; others get 403. `asked`: requests in order."""

    def __init__(self, names: Mapping[str, str], login: str = "") -> None:
        self.names, self.asked, self.address = names, list[str](), ""
        self.wanted = f"Basic {b64encode(login.encode()).decode()}" if login else ""


class _Handler(BaseHTTPRequestHandler):
    proxy: SmallProxy

    def _target(self, name: str) -> str | None:
        self.proxy.asked.append(f"{self.command} {name}")
        if self.proxy.wanted and self.headers.get("Proxy-Authorization") != self.proxy.wanted:
            self.send_error(407)
            return None
        if name not in self.proxy.names:
            self.send_error(403)
            return None
        return self.proxy.names[name]

    def _forward(self) -> None:
        to = urlsplit(self.path)
        if (target := self._target(to.netloc)) is None:
            return
        with closing(HTTPConnection(target, timeout=20)) as connection:
            own = {name: value for name, value in self.headers.items() if not name.lower().startswith("proxy-")}
            connection.request(self.command, to._replace(scheme="", netloc="").geturl(), headers=own)
            reply = connection.getresponse()
            body = reply.read()
        self.send_response_only(reply.status)
        for name, value in reply.getheaders():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_CONNECT(self) -> None:
        if (target := self._target(self.path)) is None:
            return
        host, _, port = target.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as far:
            self.send_response_only(200)
            self.end_headers()
            _pump(self.connection, far)
        self.close_connection = True

    do_GET = do_HEAD = _forward  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
        """Log nothing: `asked` has all requests."""


def _pump(one: socket.socket, other: socket.socket) -> None:
    while True:
        readable, _, _ = select.select([one, other], [], [], 20)
        if not readable:
            return
        for ready in readable:
            if not (data := ready.recv(1 << 16)):
                return
            (other if ready is one else one).sendall(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that close the connection."""


@contextmanager
def proxying(proxy: SmallProxy) -> Iterator[SmallProxy]:
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": proxy}))
    proxy.address = f"127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
