"""HTTP as a look at a registry needs it: few connections, an end to every exchange, and all cut at once on ^C."""

import math
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from urllib3 import BaseHTTPResponse, PoolManager, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from provisioner.domain.problem import CannotGoOn, Problem


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds, except `attempts`. `whole` bounds one exchange, however slowly its bytes drip.

    `budget` is what all retries of a session together may cost, summed over its connections: a mirror that is down must
    not hold a look at 500 tags for hours.
    """

    connect: float = 5
    read: float = 30
    whole: float = 120
    attempts: int = 4
    first_wait: float = 0.5
    longest_wait: float = 30
    budget: float = 600


class Held:
    """The open sockets of one wire, so that another thread can cut them.

    Sockets, not connections: http.client lets go of its socket before the body is read where a reply closes the line.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: dict[socket.socket, Timed] = {}

    def add(self, sock: socket.socket, owner: "Timed") -> None:
        with self._lock:
            self._sockets = {held: its for held, its in self._sockets.items() if held.fileno() >= 0} | {sock: owner}

    def cut(self, late_at: float = math.inf) -> None:
        """Shuts the sockets of exchanges that were to end by `late_at` (monotonic); their readers wake at once."""
        with self._lock:
            late = [sock for sock, owner in self._sockets.items() if owner.ends <= late_at]
        for sock in late:
            # Not SSLSocket.shutdown: it takes the TLS layer away under the thread that reads.
            with suppress(OSError):  # closed meanwhile
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Timed(HTTPConnection):
    """`ends`: by when the exchange under way must be over, on the monotonic clock. Made for one wire by `_pools`."""

    held: ClassVar[Held]
    whole: ClassVar[float]
    ends: float = math.inf

    def connect(self) -> None:
        super().connect()
        if self.sock is not None:
            self.held.add(self.sock, self)

    def request(self, *args: Any, **kwargs: Any) -> None:
        self.ends = time.monotonic() + self.whole
        super().request(*args, **kwargs)


class TimedSecure(Timed, HTTPSConnection):
    pass


def _pools(held: Held, whole: float) -> dict[str, type[HTTPConnectionPool]]:
    own = {"held": held, "whole": whole}
    plain, secure = type("Plain", (Timed,), own), type("Secure", (TimedSecure,), own)
    return {
        "http": type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
    }


def _trusting(ca: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        if ca is not None:
            context.load_verify_locations(cafile=ca)
    except OSError as error:  # ssl.SSLError is one
        what = f"The certificate file {ca} cannot be read: {error.strerror or error}."
        why = "It is what the mirror's certificate is checked against."
        fix = "Give a PEM file that holds the certificate of the signing authority."
        raise CannotGoOn(Problem(code="ca_unreadable", what=what, why=why, fix=fix), "usage") from None
    return context


def user_agent() -> str:
    try:
        return f"provisioner/{version('lab-provisioner')}"
    except PackageNotFoundError:  # run from a checkout
        return "provisioner/dev"


class Wire:
    """One exchange at a time and thread; no retry, no redirect, no login. Errors are urllib3's."""

    def __init__(self, *, ca: Path | None, connections: int, patience: Patience) -> None:
        self._held = Held()
        self._patience = patience
        self._closed = threading.Event()
        self._pool = PoolManager(
            maxsize=connections,
            ssl_context=_trusting(ca),
            timeout=Timeout(connect=patience.connect, read=patience.read),
            headers={"User-Agent": user_agent(), "Accept-Encoding": "identity"},
        )
        self._pool.pool_classes_by_scheme = _pools(self._held, patience.whole)
        self._watcher = threading.Thread(target=self._watch, name="registry-deadlines", daemon=True)
        self._watcher.start()

    def exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, allowance: float
    ) -> BaseHTTPResponse:
        """The response with its body unread, to be released or closed. The body may take `allowance` seconds."""
        response = self._pool.request(
            method,
            url,
            body=body,
            headers={**self._pool.headers, **headers},
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )
        if isinstance(response.connection, Timed):
            response.connection.ends = time.monotonic() + allowance
        return response

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._patience.whole / 4)):
            self._held.cut(time.monotonic())

    def cut(self) -> None:
        """Ends every exchange under way: their threads see a broken connection."""
        self._held.cut()

    def close(self) -> None:
        self._closed.set()
        self._watcher.join()
        self._pool.clear()
