"""One request to a server and its result: a reply, or the one fault that stands in its place."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Generic, TypeVar
from urllib.parse import unquote, urljoin, urlsplit

from urllib3 import BaseHTTPResponse, make_headers
from urllib3.exceptions import HTTPError

from provisioner.domain.registry.image_problems import Fault, unreachable

T = TypeVar("T")
Receive = Callable[[BaseHTTPResponse], T]

MAX_REDIRECTS = 8
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PORTS = {"http": 80, "https": 443}
_CHUNK = 1 << 20
_SIZE = re.compile(r"[0-9]{1,18}")
# The reason in an error of S3, and in the page of a web server.
_PAGE_REASON = re.compile(rb"<(?:Message|Code|title)>([^<]{1,200})<", re.IGNORECASE)
_REASON_BYTES = 1 << 16
_ERROR_BYTES = 1 << 12
_MAX_REASON = 200
# What the texts of registries say about every 404 (distribution's registry/api/errcode).
_PLAIN_REASONS = frozenset(
    {
        "authentication required",
        "manifest unknown",
        "repository name not known to registry",
        "blob unknown to registry",
    }
)
# Where other servers write it: Docker Hub's token service, OAuth (RFC 6749, 5.2), Quay, GitLab.
_OTHER_REASONS = ("message", "error_description", "details", "detail", "error_message", "error")


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


class OutOfOrder(RequestFailed):
    """The server answers with a status of its own failure, again after each wait."""


class RedirectLoop(RequestFailed):
    """The server redirects more than `MAX_REDIRECTS` times."""

    def __init__(self, host: str) -> None:
        """Take the host that was asked first."""
        super().__init__(unreachable(host, "it redirects without end"))


class Downgrade(RequestFailed):
    """A redirect leads from https to http, on which the answer can be replaced on its way."""

    def __init__(self, host: str, url: str, target: str) -> None:
        """Take the host that was asked first, and both URLs of the redirect, without user and password."""
        self.url, self.target = url, target
        super().__init__(unreachable(host, "it redirects from https to http"))


class Cancelled(Exception):  # noqa: N818
    """The run ends, so the reply is not needed."""


@dataclass(frozen=True, slots=True)
class Request:
    """`headers` may hold a secret. `extra`: seconds that the body may take beyond the usual time.

    `attempts` replaces the number of the policy.
    """

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    extra: float = 0
    attempts: int | None = None

    @property
    def host(self) -> str:
        """HOST[:PORT] of the URL."""
        return host_of(self.url)


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
        return host_of(self.url)


@dataclass(frozen=True, slots=True)
class Hashed:
    """A body that was read to its end: its digest, its length in bytes and its first bytes (of an error 4 KiB)."""

    digest: str
    size: int
    start: bytes


def up_to(limit: int) -> Receive[bytes]:
    """Return a receiver of the first `limit` bytes of a body. The rest, if any, is not transferred.

    Of an error at least 4 KiB are read: they say why the server refuses.
    """

    def receive(response: BaseHTTPResponse) -> bytes:
        body = _read_up_to(response, limit)
        if response.status >= HTTPStatus.BAD_REQUEST and len(body) == limit < _ERROR_BYTES:
            with suppress(HTTPError):  # a text that breaks off makes it no other error
                body += _read_up_to(response, _ERROR_BYTES - limit)
        return body

    return receive


def _read_up_to(response: BaseHTTPResponse, limit: int) -> bytes:
    body = bytearray()
    while len(body) < limit and (chunk := response.read(limit - len(body))):
        body += chunk
    return bytes(body)


def hashed(response: BaseHTTPResponse) -> Hashed:
    """Receive a body of any length by its digest."""
    digest, size, start = hashlib.sha256(), 0, b""
    first = _ERROR_BYTES if response.status >= HTTPStatus.BAD_REQUEST else 512
    while chunk := response.read(_CHUNK):
        start = start or chunk[:first]
        size += len(chunk)
        digest.update(chunk)
    return Hashed(digest=f"sha256:{digest.hexdigest()}", size=size, start=start)


def is_success(status: int) -> bool:
    """Whether the body is what was asked for: engines take every status of 2xx for that."""
    return HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES


def host_of(url: str) -> str:
    """Return HOST[:PORT] of a URL, without user and password; the whole text where it is no URL."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return url[:_MAX_REASON]


def split_login(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL without user and password, and the header that logs in with them; no header where it names none."""
    parts = urlsplit(url)
    if parts.username is None:
        return url, {}
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    headers = make_headers(basic_auth=login)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), {"Authorization": headers["authorization"]}


def read_size(text: str) -> int | None:
    """Return the number of bytes that a header names, None where it is no decimal number of at most 18 digits."""
    return int(text) if _SIZE.fullmatch(text) else None


def read_reason(body: object) -> str:
    """Return in one line why a server refuses a request, as its answer says; empty where it says nothing more.

    Reads the error of a registry (OCI distribution specification, "Error codes"), of a token service, of S3, the title
    of a page, and one line of plain text.
    """
    body = body.start if isinstance(body, Hashed) else body
    if not isinstance(body, bytes) or len(body) > _REASON_BYTES:
        return ""
    try:
        texts = _json_reasons(json.loads(body))
    except (ValueError, RecursionError):
        texts = [_text_reason(body)]
    line = next((" ".join(text.split()) for text in texts if text.strip()), "")[:_MAX_REASON]
    return "" if line.lower() in _PLAIN_REASONS else "".join(c if c.isprintable() else "?" for c in line)


def _json_reasons(document: object) -> list[str]:
    if not isinstance(document, dict):
        return []
    errors = document.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else errors
    if isinstance(first, dict):
        return [str(first.get(name) or "") for name in ("message", "detail")]
    texts = [first, *map(document.get, _OTHER_REASONS)]
    return [text for text in texts if isinstance(text, str)]


def _text_reason(body: bytes) -> str:
    if (match := _PAGE_REASON.search(body)) is not None:
        return match[1].decode("utf-8", "replace")
    text = body.decode("utf-8", "replace").strip()
    is_line = len(text) <= _MAX_REASON and text.isprintable() and not text.startswith(("<", "{", "["))
    return text if is_line else ""


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
    target = join_url(reply.url, reply.headers["Location"])
    if target is None:
        raise RequestFailed(unreachable(host, "it redirects to something that is not http"))
    return target


def join_url(base: str, given: str) -> str | None:
    """Return the http(s) URL that a server names in a reply from `base`; None where it is none."""
    try:
        target = urljoin(base, given)
        scheme, host, _ = origin_of(target)
    except ValueError:
        return None
    return target if scheme in _PORTS and host else None
