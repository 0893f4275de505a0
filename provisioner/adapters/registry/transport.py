"""HTTP as a look at a registry needs it: few connections, an end to every exchange, and all cut at once on ^C."""

import math
import os
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
from urllib.parse import unquote, urlsplit

from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager, Timeout, make_headers
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.proxy import Proxied, proxy_for


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
        raise ProblemError(Problem("ca_unreadable", what, why, fix), "usage") from None
    return context


def user_agent() -> str:
    try:
        return f"provisioner/{version('lab-provisioner')}"
    except PackageNotFoundError:  # run from a checkout
        return "provisioner/dev"


def through(proxied: Proxied, given: Mapping[str, Any]) -> ProxyManager:
    """Raises ProblemError where the variable names nothing that can be spoken with."""
    login = urlsplit(proxied.url)
    try:
        headers = {} if login.username is None else _login(login.username, login.password or "")
        return ProxyManager(
            proxied.public if login.hostname else "", proxy_headers=headers, proxy_ssl_context=_trusting(None), **given
        )
    except (ValueError, HTTPError):
        what = f"{proxied.variable} names no http proxy: {proxied.public}"
        why = "every request to that kind of address would go through it"
        fix = f"write it as http://HOST:PORT, or unset {proxied.variable}"
        raise ProblemError(Problem("proxy_unusable", what, why, fix), "usage") from None


def _login(user: str, password: str) -> dict[str, str]:
    return dict(make_headers(proxy_basic_auth=f"{unquote(user)}:{unquote(password)}"))


class Wire:
    """One exchange at a time and thread; no retry, no redirect, no login. Errors are urllib3's.

    Each address is asked through the proxy that `environment` names for it, as Docker's own client would.
    """

    def __init__(
        self, *, ca: Path | None, connections: int, patience: Patience, environment: Mapping[str, str] | None = None
    ) -> None:
        self._held = Held()
        self._patience = patience
        self._environment = os.environ if environment is None else environment
        self._closed = threading.Event()
        self._given: dict[str, Any] = {
            "maxsize": connections,
            "ssl_context": _trusting(ca),
            "timeout": Timeout(connect=patience.connect, read=patience.read),
            "headers": {"User-Agent": user_agent(), "Accept-Encoding": "identity"},
        }
        self._guard = threading.Lock()
        self._managers: dict[str, PoolManager] = {}
        self._watcher = threading.Thread(target=self._watch, name="registry-deadlines", daemon=True)
        self._watcher.start()

    def proxy(self, url: str) -> Proxied | None:
        return proxy_for(url, self._environment)

    def exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, allowance: float
    ) -> BaseHTTPResponse:
        """The response with its body unread, to be released or closed. The body may take `allowance` seconds."""
        manager = self._manager(self.proxy(url))
        response = manager.request(
            method,
            url,
            body=body,
            headers={**manager.headers, **headers},
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )
        if isinstance(response.connection, Timed):
            response.connection.ends = time.monotonic() + allowance
        return response

    def _manager(self, proxied: Proxied | None) -> PoolManager:
        with self._guard:
            key = "" if proxied is None else proxied.url
            if key not in self._managers:
                made = PoolManager(**self._given) if proxied is None else through(proxied, self._given)
                made.pool_classes_by_scheme = _pools(self._held, self._patience.whole)
                self._managers[key] = made
            return self._managers[key]

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._patience.whole / 4)):
            self._held.cut(time.monotonic())

    def cut(self) -> None:
        """Ends every exchange under way: their threads see a broken connection."""
        self._held.cut()

    def close(self) -> None:
        self._closed.set()
        self._watcher.join()
        for manager in self._managers.values():
            manager.clear()
