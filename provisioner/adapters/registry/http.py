"""One request to a registry and what came of it: a reply, or the one fault that stands in its place."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import urlsplit

from urllib3 import BaseHTTPResponse

from provisioner.domain.registry.image_problems import Fault

T = TypeVar("T")
Receive = Callable[[BaseHTTPResponse], T]

_CHUNK = 1 << 20


class Refused(Exception):  # noqa: N818  (it carries the fault, which says it)
    """No usable reply. Never holds headers, so no secret."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(fault.problem.what)


class BodyCutShort(Refused):
    """The server announces more bytes than it sends, and breaks off after the same `got` bytes each time."""

    def __init__(self, fault: Fault, got: int) -> None:
        self.got = got
        super().__init__(fault)


class Cancelled(Exception):  # noqa: N818
    """The run ends; nobody waits for this reply."""


@dataclass(frozen=True, slots=True)
class Request:
    """`headers` may hold a secret. `extra`: seconds that the body may take on top of the usual."""

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    extra: float = 0

    @property
    def host(self) -> str:
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
        return urlsplit(self.url).netloc


@dataclass(frozen=True, slots=True)
class Hashed:
    """A body that was read to its end: its digest, its length in bytes and how it begins."""

    digest: str
    size: int
    start: bytes


def up_to(limit: int) -> Receive[bytes]:
    """The first `limit` bytes of a body; the rest, if any, is never transferred."""

    def receive(response: BaseHTTPResponse) -> bytes:
        body = bytearray()
        while len(body) < limit and (chunk := response.read(limit - len(body))):
            body += chunk
        return bytes(body)

    return receive


def hashed(response: BaseHTTPResponse) -> Hashed:
    digest, size, start = hashlib.sha256(), 0, b""
    while chunk := response.read(_CHUNK):
        start = start or chunk[:4]
        size += len(chunk)
        digest.update(chunk)
    return Hashed(digest=f"sha256:{digest.hexdigest()}", size=size, start=start)
