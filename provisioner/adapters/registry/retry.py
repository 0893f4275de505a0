"""Requests that come back: asked again after faults that pass, each ends in a reply or in one Fault."""

import re
import ssl
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import urlsplit

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    IncompleteRead,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as WireTimeoutError

from provisioner.adapters.registry.http import BodyCutShort, Cancelled, Receive, Refused, Reply, Request, T
from provisioner.adapters.registry.transport import Patience, Wire
from provisioner.domain.registry.image_problems import Fault, no_such_service, rate_limited, tls_untrusted, unreachable
from provisioner.domain.values.proxy import proxy_failed
from provisioner.domain.values.sync import SyncState

# go-containerregistry's list, and 425: answers that may differ a moment later.
_PASSING = frozenset({408, 425, 429, 499, 500, 502, 503, 504, 522})
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"})


@dataclass(frozen=True, slots=True)
class Setback:
    """What made one try fail. `wait`: seconds the server asks for. `cut_at`: bytes after which it broke off."""

    refused: Refused
    wait: float | None = None
    cut_at: int | None = None


class Sender:
    """Raises Refused where no usable reply came. A refused connection is final for `home`, until it once answered."""

    def __init__(self, wire: Wire, patience: Patience, home: str) -> None:
        self._wire = wire
        self._patience = patience
        self._home = home
        self._answered: set[str] = set()
        self._spent = 0.0
        self._lock = threading.Lock()
        self.stopped = threading.Event()

    def send(self, request: Request, receive: Receive[T]) -> Reply[T]:
        attempt, last_cut = 0, None
        while True:
            attempt += 1
            began = time.monotonic()
            outcome = self._try(request, receive)
            if isinstance(outcome, Reply):
                return outcome
            if outcome.cut_at is not None and outcome.cut_at == last_cut:
                raise BodyCutShort(outcome.refused.fault, outcome.cut_at)
            last_cut = outcome.cut_at
            if not self._may_wait(attempt, outcome.wait, time.monotonic() - began):
                raise outcome.refused

    def _try(self, request: Request, receive: Receive[T]) -> Reply[T] | Setback:
        if self.stopped.is_set():
            raise Cancelled
        allowance = self._patience.whole + request.extra
        deadline = time.monotonic() + allowance
        try:
            response = self._wire.exchange(request.method, request.url, request.headers, request.body, allowance)
            try:
                reply = Reply(response.status, response.headers, request.url, receive(response))
                broken = request.method != "HEAD" and _broke_off_in_its_head(response)
            finally:
                _let_go(response)
        except HTTPError as error:
            if self.stopped.is_set():
                raise Cancelled from None
            return self._setback(error, request.url, late=time.monotonic() >= deadline)
        if broken or time.monotonic() >= deadline:
            return Setback(Refused(unreachable(request.host, "its answer was not complete")))
        self._answered.add(reply.host)
        return _passing(reply) if reply.status in _PASSING else reply

    def _may_wait(self, attempt: int, asked: float | None, lost: float) -> bool:
        pause = min(self._patience.first_wait * 2 ** (attempt - 1), self._patience.longest_wait)
        pause = pause if asked is None else asked
        if attempt >= self._patience.attempts or pause > self._patience.longest_wait:
            return False
        with self._lock:
            self._spent += lost + pause
            if self._spent > self._patience.budget:
                return False
        if self.stopped.wait(pause):
            raise Cancelled
        return True

    def _setback(self, error: HTTPError, url: str, *, late: bool) -> Setback:
        """Raises Refused where another try would end the same."""
        host = urlsplit(url).netloc
        if isinstance(error, ProxyError):
            raise Refused(self._proxy_failed(url, error))
        if isinstance(error, SSLError):
            self._judge_tls(error, host)
        if isinstance(error, NewConnectionError) and host not in self._answered:
            raise Refused(self._nobody_there(host, _no_connection(error)))
        cause = error.args[1] if len(error.args) > 1 else None
        cut_at = cause.partial if isinstance(cause, IncompleteRead) and not late else None
        return Setback(Refused(unreachable(host, self._in_words(error, late=late))), cut_at=cut_at)

    def _proxy_failed(self, url: str, error: ProxyError) -> Fault:
        """The reason of a tunnel that was refused is in the text alone (http.client)."""
        cause, proxied = error.original_error, self._wire.proxy(url)
        host = urlsplit(url).netloc
        if proxied is None:
            return unreachable(host, "the connection broke")
        refused = re.search(r"Tunnel connection failed: (\d{3})", str(cause))
        reason = f"HTTP {refused[1]}" if refused else "no connection to the proxy"
        return Fault(state=SyncState.UNKNOWN, problem=proxy_failed(host, proxied, reason))

    def _nobody_there(self, host: str, reason: str) -> Fault:
        return no_such_service(host, reason) if host == self._home else unreachable(host, reason)

    def _judge_tls(self, error: SSLError, host: str) -> None:
        cause = error.args[0] if error.args else None
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise Refused(tls_untrusted(host, cause.verify_message)) from None
        if isinstance(cause, ssl.SSLError) and cause.reason in _NOT_TLS:
            raise Refused(self._nobody_there(host, "it does not speak TLS")) from None

    def _in_words(self, error: HTTPError, *, late: bool) -> str:
        if late:
            return f"its answer was not complete in {self._patience.whole:g} s"
        if isinstance(error, ConnectTimeoutError):
            return f"no connection within {self._patience.connect:g} s"
        if isinstance(error, WireTimeoutError):
            return f"silence for {self._patience.read:g} s"
        return "the connection broke"


def _broke_off_in_its_head(response: BaseHTTPResponse) -> bool:
    """http.client takes the end of the connection for the end of the headers, and then finds an empty body."""
    framed = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
    return not framed and response.tell() == 0 and response.status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT)


def _let_go(response: BaseHTTPResponse) -> None:
    if response.length_remaining == 0:
        response.release_conn()
    else:  # bytes that nobody wants: a connection costs less
        response.close()


def _no_connection(error: NewConnectionError) -> str:
    if isinstance(error, NameResolutionError):
        return "its name cannot be looked up"
    return "the connection was refused, or there is no way to it"


def _passing(reply: Reply[T]) -> Setback:
    wait = _retry_after(reply.headers.get("Retry-After", ""))
    if reply.status == HTTPStatus.TOO_MANY_REQUESTS:
        return Setback(Refused(rate_limited(reply.host, wait)), wait=wait)
    return Setback(Refused(unreachable(reply.host, f"HTTP {reply.status}")), wait=wait)


def _retry_after(text: str) -> float | None:
    """Seconds or an HTTP date (RFC 9110, 10.2.3). None where there is neither."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
