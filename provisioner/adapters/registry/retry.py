"""Requests with retries: a request ends in a reply or in one Fault, after retries of faults that may pass."""

import re
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    IncompleteRead,
    LocationValueError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as WireTimeoutError

from provisioner.adapters.registry.http import (
    MAX_REDIRECTS,
    BodyCutShort,
    Cancelled,
    Downgrade,
    OutOfOrder,
    Receive,
    RedirectLoop,
    Reply,
    Request,
    RequestFailed,
    T,
    host_of,
    is_downgrade,
    origin_of,
    read_reason,
    read_size,
    redirect_target,
)
from provisioner.adapters.registry.transport import RetryPolicy, Transport
from provisioner.domain.registry.image_problems import Fault, no_such_service, rate_limited, tls_untrusted, unreachable
from provisioner.domain.values.proxy import proxy_failed
from provisioner.domain.values.sync import SyncState

# go-containerregistry's list, and 425: the answer may differ a moment later.
_TEMPORARY = frozenset({408, 425, 429, 499, 500, 502, 503, 504, 522})
_MAX_DATE = 64  # characters of an HTTP date, generously
_NOT_YET_VALID = 9  # X509_V_ERR_CERT_NOT_YET_VALID of OpenSSL
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"})


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """Why one attempt failed. `wait`: seconds the server asks for. `cut_at`: bytes after which the body broke off."""

    failure: RequestFailed
    wait: float | None = None
    cut_at: int | None = None


class Sender:
    """Sends requests of one session; its methods raise RequestFailed where there is no usable reply.

    `home`: the host that the session is about. `stopped`: set to end all retries by Cancelled.
    """

    def __init__(self, transport: Transport, policy: RetryPolicy, home: str) -> None:
        """Start with the whole budget of the policy."""
        self._transport = transport
        self._policy = policy
        self._home = home
        self._answered: set[str] = set()
        self._spent = 0.0
        self._lock = threading.Lock()
        self.stopped = threading.Event()

    def send(self, request: Request, receive: Receive[T]) -> Reply[T]:
        """Return the reply, of any status that a retry does not change. A refused connection is not retried."""
        attempt, last_cut = 0, None
        while True:
            attempt += 1
            began = time.monotonic()
            outcome = self._try(request, receive)
            if isinstance(outcome, Reply):
                return outcome
            if outcome.cut_at is not None and outcome.cut_at == last_cut:
                raise BodyCutShort(outcome.failure.fault, outcome.cut_at)
            last_cut = outcome.cut_at
            is_last = request.attempts is not None and attempt >= request.attempts
            if is_last or not self._may_wait(attempt, outcome.wait, time.monotonic() - began):
                raise outcome.failure

    def follow(
        self, request: Request, receive: Receive[T], host: str, check: Callable[[str], object] | None = None
    ) -> Reply[T]:
        """Send, and follow redirects. A fault names `host`.

        Raises RedirectLoop after `MAX_REDIRECTS`, Downgrade where one leads from https to http, and what `check` raises
        for the URL of a redirect before that is asked. A login is sent to the origin of the request alone.
        """
        for _ in range(MAX_REDIRECTS):
            reply = self.send(request, receive)
            if (target := redirect_target(reply, host)) is None:
                return reply
            if is_downgrade(request.url, target):
                raise Downgrade(host, request.url, target)
            if check is not None:
                check(target)
            if origin_of(target) != origin_of(request.url):
                headers = {name: value for name, value in request.headers.items() if name != "Authorization"}
                request = replace(request, headers=headers)
            request = replace(request, url=target)
        raise RedirectLoop(host)

    def _try(self, request: Request, receive: Receive[T]) -> Reply[T] | FailedAttempt:
        if self.stopped.is_set():
            raise Cancelled
        allowance = self._policy.whole + request.extra
        deadline = time.monotonic() + allowance
        try:
            response = self._transport.exchange(request.method, request.url, request.headers, request.body, allowance)
            try:
                reply = Reply(response.status, response.headers, request.url, receive(response))
                broken = request.method != "HEAD" and _has_broken_head(response)
            finally:
                _release(response)
        except (UnicodeError, LocationValueError):  # a host name that is none
            raise RequestFailed(unreachable(request.host, "it is not an address")) from None
        except HTTPError as error:
            if self.stopped.is_set():
                raise Cancelled from None
            return self._failed_attempt(error, request.url, late=time.monotonic() >= deadline)
        if broken or time.monotonic() >= deadline:
            return FailedAttempt(RequestFailed(unreachable(request.host, "its answer was not complete")))
        self._answered.add(reply.host)
        return _temporary(reply) if reply.status in _TEMPORARY else reply

    def _may_wait(self, attempt: int, requested: float | None, elapsed: float) -> bool:
        pause = min(self._policy.first_wait * 2 ** (attempt - 1), self._policy.longest_wait)
        pause = pause if requested is None else requested
        if attempt >= self._policy.attempts or pause > self._policy.longest_wait:
            return False
        with self._lock:
            self._spent += elapsed + pause
            if self._spent > self._policy.budget:
                return False
        if self.stopped.wait(pause):
            raise Cancelled
        return True

    def _failed_attempt(self, error: HTTPError, url: str, *, late: bool) -> FailedAttempt:
        """Raises RequestFailed where another attempt would fail the same way."""
        host = host_of(url)
        if isinstance(error, ProxyError):
            raise RequestFailed(self._proxy_failed(url, error))
        if isinstance(error, SSLError):
            self._raise_tls_fault(error, host)
        if isinstance(error, NewConnectionError) and host not in self._answered:
            raise RequestFailed(self._no_service(host, _connection_fault(error)))
        cause = error.args[1] if len(error.args) > 1 else None
        cut_at = cause.partial if isinstance(cause, IncompleteRead) and not late else None
        return FailedAttempt(RequestFailed(unreachable(host, self._describe(error, late=late))), cut_at=cut_at)

    def _proxy_failed(self, url: str, error: ProxyError) -> Fault:
        """Only the text of the error has the status of a tunnel that was refused (http.client)."""
        cause, proxied = error.original_error, self._transport.proxy(url)
        host = host_of(url)
        if proxied is None:
            return unreachable(host, "the connection broke")
        refused = re.search(r"Tunnel connection failed: (\d{3})", str(cause))
        reason = f"HTTP {refused[1]}" if refused else "no connection to the proxy"
        return Fault(state=SyncState.UNKNOWN, problem=proxy_failed(host, proxied, reason))

    def _no_service(self, host: str, reason: str) -> Fault:
        return no_such_service(host, reason) if host == self._home else unreachable(host, reason)

    def _raise_tls_fault(self, error: SSLError, host: str) -> None:
        cause = error.args[0] if error.args else None
        if isinstance(cause, ssl.SSLCertVerificationError):
            is_early = cause.verify_code == _NOT_YET_VALID
            raise RequestFailed(tls_untrusted(host, cause.verify_message, is_early=is_early)) from None
        if isinstance(cause, ssl.SSLError) and cause.reason in _NOT_TLS:
            raise RequestFailed(self._no_service(host, "it does not speak TLS")) from None

    def _describe(self, error: HTTPError, *, late: bool) -> str:
        if late:
            return f"its answer was not complete in {self._policy.whole:g} s"
        if isinstance(error, ConnectTimeoutError):
            return f"no connection within {self._policy.connect:g} s"
        if isinstance(error, WireTimeoutError):
            return f"no data for {self._policy.read:g} s"
        return "the connection broke"


def _has_broken_head(response: BaseHTTPResponse) -> bool:
    """http.client takes the end of the connection for the end of the headers, and reads an empty body."""
    framed = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
    return not framed and response.tell() == 0 and response.status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT)


def _release(response: BaseHTTPResponse) -> None:
    if response.length_remaining == 0:
        response.release_conn()
    else:  # a new connection costs less than reading the rest
        response.close()


def _connection_fault(error: NewConnectionError) -> str:
    if isinstance(error, NameResolutionError):
        return "its name cannot be resolved"
    return "the connection was refused, or there is no route to it"


def _temporary(reply: Reply[T]) -> FailedAttempt:
    wait = _retry_after(reply.headers.get("Retry-After", ""))
    if reply.status == HTTPStatus.TOO_MANY_REQUESTS:
        return FailedAttempt(RequestFailed(rate_limited(reply.host, wait, read_reason(reply.received))), wait=wait)
    fault = unreachable(reply.host, f"HTTP {reply.status}", read_reason(reply.received))
    return FailedAttempt(OutOfOrder(fault), wait=wait)


def _retry_after(text: str) -> float | None:
    """Return the seconds of a number or an HTTP date (RFC 9110, 10.2.3); None if it is neither."""
    if (seconds := read_size(text.strip())) is not None:
        return float(seconds)
    try:
        return max(0.0, (parsedate_to_datetime(text[:_MAX_DATE]) - datetime.now(UTC)).total_seconds())
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None
