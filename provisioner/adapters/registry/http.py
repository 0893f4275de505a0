"""One request to a server and its result: a reply, or the one fault that stands in its place."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import urljoin, urlsplit

from urllib3 import BaseHTTPResponse

from provisioner.domain.registry.image_problems import Fault, unreachable

T = TypeVar("T")
Receive = Callable[[BaseHTTPResponse], T]

MAX_REDIRECTS = 8
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PORTS = {"http": 80, "https": 443}
_CHUNK = 1 << 20


class RequestFailed(Exception):  # noqa: N818  (the fault says what failed)
    """A request without a usable reply. Never holds headers, and so no secret."""

    def __init__(self, fault: Fault) -> None:
        """Take the fault that stands in the place of the reply."""
        self.fault = fault
        super().__init__(fault.problem.what)


class BodyCutShort(RequestFailed):
    """The server announces more bytes than it sends, and breaks off after the same `got` bytes each time."""

    def __init__(self, fault: Fault, got: int) -> None:
        """Take the fault, and the number of bytes that arrived."""
        self.got = got
        super().__init__(fault)


class RedirectLoop(RequestFailed):
    """The server redirects more than `MAX_REDIRECTS` times."""

    def __init__(self, host: str) -> None:
        """Take the host that was asked first."""
        super().__init__(unreachable(host, "it redirects without end"))


class Cancelled(Exception):  # noqa: N818
    """The run ends, so the reply is not needed."""


@dataclass(frozen=True, slots=True)
class Request:
    """`headers` may hold a secret. `extra`: seconds that the body may take beyond the usual time."""

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    extra: float = 0

    @property
    def host(self) -> str:
        """HOST[:PORT] of the URL."""
        return urlsplit(self.url).netloc


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """`url`: where the reply came from. `received`: what the request's receiver made of the body."""

    status: int
    headers: Mapping[str, str]
    url: str
    received: T

    @property
    def host(self) -> str:
        """HOST[:PORT] of the URL."""
        return urlsplit(self.url).netloc


@dataclass(frozen=True, slots=True)
class Hashed:
    """A body that was read to its end: its digest, its length in bytes and its first bytes."""

    digest: str
    size: int
    start: bytes


def up_to(limit: int) -> Receive[bytes]:
    """Return a receiver of the first `limit` bytes of a body. The rest, if any, is not transferred."""

    def receive(response: BaseHTTPResponse) -> bytes:
        body = bytearray()
        while len(body) < limit and (chunk := response.read(limit - len(body))):
            body += chunk
        return bytes(body)

    return receive


def hashed(response: BaseHTTPResponse) -> Hashed:
    """Receive a body of any length by its digest."""
    digest, size, start = hashlib.sha256(), 0, b""
    while chunk := response.read(_CHUNK):
        start = start or chunk[:4]
        size += len(chunk)
        digest.update(chunk)
    return Hashed(digest=f"sha256:{digest.hexdigest()}", size=size, start=start)


def origin_of(url: str) -> tuple[str, str | None, int | None]:
    """Return scheme, host and port; the scheme's default port if none is named. Raises ValueError for a bad port."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def is_downgrade(url: str, target: str) -> bool:
    """Whether a redirect leads from https to http, where anybody on the way can exchange the answer."""
    return urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https"


def redirect_target(reply: Reply[T], host: str) -> str | None:
    """Return the URL that the reply redirects to, None if it does not redirect.

    Raises RequestFailed, naming `host`, if the target is not http or https.
    """
    if reply.status not in _REDIRECTS or "Location" not in reply.headers:
        return None
    try:
        target = urljoin(reply.url, reply.headers["Location"])
        scheme, target_host, _ = origin_of(target)
    except ValueError:
        target = scheme = ""
        target_host = None
    if scheme not in _PORTS or not target_host:
        raise RequestFailed(unreachable(host, "it redirects to something that is not http"))
    return target
