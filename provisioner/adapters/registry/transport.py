"""HTTP for checks of registries: few connections, a time limit for every exchange, and all cut at once on ^C."""

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
from urllib3.util.ssltransport import SSLTransport

from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.proxy import ProxySettings, proxy_for


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Time limits and retries, in seconds except `attempts`.

    `whole` limits one exchange, however slowly its bytes arrive. `budget` limits the time that all retries of a session
    take, summed over its connections: a mirror that is down must not delay a check of 500 tags for hours.
    """

    connect: float = 5
    read: float = 30
    whole: float = 120
    attempts: int = 4
    first_wait: float = 0.5
    longest_wait: float = 30
    budget: float = 600


class OpenSockets:
    """The open sockets of one transport, so that another thread can cut them.

    Not connections: http.client drops its socket before the body is read if the reply closes the connection.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._sockets: dict[socket.socket, TimedConnection] = {}

    def add(self, sock: socket.socket, owner: "TimedConnection") -> None:
        """Add the socket of a connection, and drop those that are closed."""
        with self._lock:
            self._sockets = {one: its for one, its in self._sockets.items() if one.fileno() >= 0} | {sock: owner}

    def cut(self, late_at: float = math.inf) -> None:
        """Shut the sockets of exchanges that had to end by `late_at` (monotonic clock); their readers wake at once."""
        with self._lock:
            late = [sock for sock, owner in self._sockets.items() if owner.ends <= late_at]
        for sock in late:
            # Not SSLSocket.shutdown: it removes the TLS layer while another thread reads.
            with suppress(OSError):  # closed meanwhile
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


class TimedConnection(HTTPConnection):
    """`ends`: when the running exchange must end, on the monotonic clock. `_pools` makes a subclass per transport."""

    open_sockets: ClassVar[OpenSockets]
    whole: ClassVar[float]
    ends: float = math.inf

    def connect(self) -> None:
        """Connect, and add the socket to those that can be cut."""
        super().connect()
        if self.sock is not None:
            # Through an https proxy to an https registry there is TLS within TLS, which is no socket itself.
            sock = self.sock.socket if isinstance(self.sock, SSLTransport) else self.sock
            self.open_sockets.add(sock, self)

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Send a request, and start the time limit of its exchange."""
        self.ends = time.monotonic() + self.whole
        super().request(*args, **kwargs)


class TimedSecureConnection(TimedConnection, HTTPSConnection):
    """The same over TLS."""


def _pools(open_sockets: OpenSockets, whole: float) -> dict[str, type[HTTPConnectionPool]]:
    shared = {"open_sockets": open_sockets, "whole": whole}
    plain, secure = type("Plain", (TimedConnection,), shared), type("Secure", (TimedSecureConnection,), shared)
    return {
        "http": type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
    }


def _tls_context(ca: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        if ca is not None:
            context.load_verify_locations(cafile=ca)
    except OSError as error:  # ssl.SSLError is one
        what = f"The certificate file {ca} cannot be read: {error.strerror or error}."
        why = "The mirror's certificate is verified against it."
        fix = "Give a PEM file with the certificate of the signing authority."
        raise ProblemError(Problem("ca_unreadable", what, why, fix), "usage") from None
    return context


def user_agent() -> str:
    """Return name and version as servers see them."""
    try:
        return f"provisioner/{version('lab-provisioner')}"
    except PackageNotFoundError:  # run from a checkout
        return "provisioner/dev"


def proxy_manager(proxied: ProxySettings, given: Mapping[str, Any]) -> ProxyManager:
    """Return urllib3's manager for a proxy; `given`: its other arguments. Raises ProblemError (`proxy_unusable`)."""
    login = urlsplit(proxied.url)
    try:
        headers = {} if login.username is None else _proxy_login(login.username, login.password or "")
        return ProxyManager(
            proxied.public if login.hostname else "",
            proxy_headers=headers,
            proxy_ssl_context=_tls_context(None),
            **given,
        )
    except (ValueError, HTTPError):
        what = f"{proxied.variable} does not name an http proxy: {proxied.public}"
        why = "requests to this kind of address are sent through it"
        fix = f"write it as http://HOST:PORT, or unset {proxied.variable}"
        raise ProblemError(Problem("proxy_unusable", what, why, fix), "usage") from None


def _proxy_login(user: str, password: str) -> dict[str, str]:
    return dict(make_headers(proxy_basic_auth=f"{unquote(user)}:{unquote(password)}"))


class Transport:
    """Exchanges without retry, redirect or login. Errors are urllib3's.

    Each address is asked through the proxy that `environment` names for it, as Docker's own client does.
    """

    def __init__(
        self, *, ca: Path | None, connections: int, policy: RetryPolicy, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start the thread that ends late exchanges. Raises ProblemError if the file `ca` cannot be read."""
        self._open_sockets = OpenSockets()
        self._policy = policy
        self._environment = os.environ if environment is None else environment
        self._closed = threading.Event()
        # Made for the first https address: to read the system's certificates takes longer than a request in the lab.
        self._tls = None if ca is None else _tls_context(ca)
        self._given: dict[str, Any] = {
            "maxsize": connections,
            "timeout": Timeout(connect=policy.connect, read=policy.read),
            "headers": {"User-Agent": user_agent(), "Accept-Encoding": "identity"},
        }
        self._guard = threading.Lock()
        self._managers: dict[tuple[bool, str | None], PoolManager] = {}
        self._watcher = threading.Thread(target=self._watch, name="registry-deadlines", daemon=True)
        self._watcher.start()

    def proxy(self, url: str) -> ProxySettings | None:
        """Return the proxy that the environment names for the URL, if any."""
        return proxy_for(url, self._environment)

    def exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, allowance: float
    ) -> BaseHTTPResponse:
        """Return the response with its body unread. The body may take `allowance` seconds.

        The caller releases or closes the response.
        """
        manager = self._manager(self.proxy(url), secure=urlsplit(url).scheme == "https")
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
        if isinstance(response.connection, TimedConnection):
            response.connection.ends = time.monotonic() + allowance
        return response

    def _manager(self, proxied: ProxySettings | None, *, secure: bool) -> PoolManager:
        with self._guard:
            key = (secure, None if proxied is None else proxied.url)
            if key not in self._managers:
                given = self._given | ({"ssl_context": self._tls_once()} if secure else {})
                made = PoolManager(**given) if proxied is None else proxy_manager(proxied, given)
                made.pool_classes_by_scheme = _pools(self._open_sockets, self._policy.whole)
                self._managers[key] = made
            return self._managers[key]

    def _tls_once(self) -> ssl.SSLContext:
        self._tls = self._tls or _tls_context(None)
        return self._tls

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._policy.whole / 4)):
            self._open_sockets.cut(time.monotonic())

    def cut(self) -> None:
        """End every running exchange: its thread sees a broken connection."""
        self._open_sockets.cut()

    def close(self) -> None:
        """End the thread and close the connections."""
        self._closed.set()
        self._watcher.join()
        for manager in self._managers.values():
            manager.clear()
