"""Checks with a few bytes whether a blob is complete on a registry. HEAD is not reliable.

Stock registries answer HEAD from a cache of descriptors, with the right length for a layer that was deleted or
truncated; a proxy answers it by downloading the layer, or with 404 for one that it could get. For a range of the last
byte the registry has to read the file. Both ends are asked for in one request; if that fails, in two, and the result
rests on these two alone. See the distribution specification on Range, and goharbor/harbor#22609, #23875, #23882.
"""

import re
from dataclasses import dataclass, field
from http import HTTPStatus
from threading import Event

from urllib3 import BaseHTTPResponse

from provisioner.adapters.registry.http import (
    BodyCutShort,
    Hashed,
    Receive,
    Reply,
    Request,
    RequestFailed,
    T,
    hashed,
    is_success,
    read_reason,
    read_size,
    up_to,
)
from provisioner.adapters.registry.ranges import MAX_REPLY, range_header, read_parts
from provisioner.adapters.registry.session import Session
from provisioner.domain.registry.image_problems import (
    Fault,
    cold,
    digest_mismatch,
    layer_missing,
    layer_truncated,
    not_a_layer,
    unknown_length,
    unreachable,
)
from provisioner.domain.registry.manifest import Blob
from provisioner.domain.values.sync import SyncState

_SMALL = 1 << 16  # bytes; smaller blobs are read and hashed: one round trip, and a proof
_START = 512  # bytes; the first header of a tar, for a layer that is not compressed
_FEW_BYTES = 4
_MIN_RATE = 100_000  # bytes a second; a deep check of a slower registry fails
_MAGICS = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zX")  # engines use these, not the media type
_SKIPPABLE_ZSTD = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
_COMPRESSED = re.compile(r"(\.|\+)(gzip|zstd)$")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_UNSATISFIED = re.compile(r"bytes \*/([0-9]{1,18})")
_GONE = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)


@dataclass(frozen=True, slots=True)
class BlobProbe:
    """`lazy`: the mirror may answer for a blob that it would only then fetch from its upstream.

    `without_parts` is set once the server has answered to one range but not to two in one request.
    """

    session: Session
    lazy: bool
    without_parts: Event = field(default_factory=Event)

    def check(self, repository: str, blob: Blob, *, deep: bool) -> Fault | None:
        """Return None if the blob is complete. `deep` reads and hashes every byte."""
        try:
            return (
                self._check_whole(repository, blob)
                if deep or blob.size <= _SMALL
                else self._check_ends(repository, blob)
            )
        except BodyCutShort as cut:
            return _too_short(blob, cut.got)
        except RequestFailed as failed:
            return failed.fault

    def _check_whole(self, repository: str, blob: Blob) -> Fault | None:
        request = Request("", extra=blob.size / _MIN_RATE)
        reply = self._ask(repository, blob, hashed, request)
        return _check_digest(blob, reply) if is_success(reply.status) else _status_fault(blob, reply)

    def _ask(self, repository: str, blob: Blob, receive: Receive[T], request: Request) -> Reply[T]:
        """Raises RequestFailed for a Content-Encoding: engines undo it, and the digest is that of the bytes before."""
        reply = self.session.ask(f"{repository}/blobs/{blob.digest}", receive, repository, request)
        encoding = reply.headers.get("Content-Encoding", "").strip().lower()
        if is_success(reply.status) and encoding == "gzip":
            raise RequestFailed(not_a_layer(blob.digest, blob.size, "it as Content-Encoding: gzip"))
        return reply

    def _check_ends(self, repository: str, blob: Blob) -> Fault | None:
        if self.lazy or self.without_parts.is_set():
            return self._check_each_end(repository, blob)
        failed = None
        try:
            if self._has_both_ends(repository, blob):
                return None
        except RequestFailed as first:
            failed = first
        fault = self._check_each_end(repository, blob)
        if fault is None:
            self.without_parts.set()
        # If one range fails, too, and nothing is known to be missing, the server is to blame and not the layer.
        return fault if failed is None or fault is None or fault.problem.code == "layer_missing" else failed.fault

    def _has_both_ends(self, repository: str, blob: Blob) -> bool:
        """Ask for both ends in one request. False does not mean that the blob is incomplete.

        Raises RequestFailed after two attempts: some servers fail on two ranges, by a status of 5xx or by cutting the
        connection, and not on one.
        """
        start, end = (0, _START - 1), (blob.size - 1, blob.size - 1)
        request = Request("", headers=range_header(start, end), attempts=2)
        try:
            reply = self._ask(repository, blob, up_to(MAX_REPLY), request)
        except BodyCutShort:
            return False
        except RequestFailed as failed:
            if failed.fault.state is not SyncState.DENIED:
                raise
            return False
        found = read_parts(reply)
        return len(found.get((*end, blob.size), b"")) == 1 and _is_layer(found.get((*start, blob.size), b""))

    def _check_each_end(self, repository: str, blob: Blob) -> Fault | None:
        last = blob.size - 1
        try:
            tail = self._range(repository, blob, last, last)
        except BodyCutShort:
            return self._no_end_fault(repository, blob)
        except RequestFailed as failed:
            return self._check_without_range(repository, blob, failed)
        if not _is_range(tail, last, last):
            return self._check_other_reply(repository, blob, tail)
        if (has := _total(tail)) is not None and has != blob.size:
            return _too_short(blob, has)
        if len(tail.received) != 1:
            return self._no_end_fault(repository, blob)
        return self._check_head(repository, blob)

    def _check_head(self, repository: str, blob: Blob) -> Fault | None:
        head = self._range(repository, blob, 0, _START - 1)
        if not _is_range(head, 0, _START - 1):
            return self._check_other_reply(repository, blob, head)
        return _check_start(blob, head, head.received)

    def _check_without_range(self, repository: str, blob: Blob, refused: RequestFailed) -> Fault | None:
        """Check a layer of which a range is refused by 403 or 500: some firewalls let only the whole pass.

        Not on a mirror that would download the whole for it.
        """
        if self.lazy or refused.fault.state not in (SyncState.DENIED, SyncState.UNKNOWN):
            raise refused
        try:
            whole = self._ask(repository, blob, _read_start, Request("", attempts=1))
        except RequestFailed:
            raise refused from None
        if not is_success(whole.status):
            raise refused
        return self._check_announced(blob, whole)

    def _no_end_fault(self, repository: str, blob: Blob) -> Fault:
        """A cache of descriptors gives the old length of a file that was cut, and of one that was deleted."""
        head = self._range(repository, blob, 0, _START - 1)
        return _status_fault(blob, head) if head.status in _GONE else layer_truncated(blob.digest, blob.size)

    def _range(self, repository: str, blob: Blob, first: int, last: int) -> Reply[bytes]:
        request = Request("", headers=range_header((first, last)))
        return self._ask(repository, blob, _read_start, request)

    def _check_other_reply(self, repository: str, blob: Blob, reply: Reply[bytes]) -> Fault | None:
        if (has := _total(reply)) is not None and has != blob.size:
            return _too_short(blob, has)
        if reply.status == HTTPStatus.OK:
            return self._check_announced(blob, reply)
        if self.lazy and reply.status in _GONE:
            return _status_fault(blob, reply)
        # The server refuses ranges: check the start of the whole, and its announced length.
        plain = self._ask(repository, blob, _read_start, Request(""))
        return self._check_announced(blob, plain) if is_success(plain.status) else _status_fault(blob, plain)

    def _check_announced(self, blob: Blob, reply: Reply[bytes]) -> Fault | None:
        """Check a whole body of which only the start was read: its length is what the server announces."""
        if not reply.received:
            return _too_short(blob, 0)
        if (fault := _check_start(blob, reply, reply.received)) is not None:
            return fault
        if self.lazy:
            return cold()
        length = read_size(reply.headers.get("Content-Length", ""))
        if length is None:
            return unknown_length(blob.digest)
        return None if length == blob.size else _too_short(blob, length)


def _read_start(response: BaseHTTPResponse) -> bytes:
    """Receive the start of a layer. Of an error few bytes have to arrive: caches announce a wrong length for it."""
    return up_to(_START if response.status < HTTPStatus.BAD_REQUEST else _FEW_BYTES)(response)


def _too_short(blob: Blob, has: int) -> Fault:
    """Return truncated; or missing, if the registry has no byte of a layer that it lists."""
    return layer_truncated(blob.digest, blob.size, has) if has else layer_missing(blob.digest, blob.size)


def _status_fault(blob: Blob, reply: Reply[bytes] | Reply[Hashed]) -> Fault:
    if reply.status in _GONE:
        return layer_missing(blob.digest, blob.size, read_reason(reply.received))
    return unreachable(reply.host, f"HTTP {reply.status} for a layer", read_reason(reply.received))


def _is_range(reply: Reply[bytes], first: int, last: int) -> bool:
    match = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", ""))
    is_it = match is not None and (int(match[1]), int(match[2])) == (first, last)
    return reply.status == HTTPStatus.PARTIAL_CONTENT and is_it


def _total(reply: Reply[bytes]) -> int | None:
    """Return the length of the blob that a 206 or a 416 names."""
    text = reply.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(text)
    if match is not None:
        return int(match[3])
    unsatisfied = _UNSATISFIED.fullmatch(text)
    return None if unsatisfied is None else int(unsatisfied[1])


def _is_layer(start: bytes) -> bool:
    """Return True for the start of a layer, compressed or not: engines look at the content, not at its media type."""
    return start.startswith(_MAGICS) or _SKIPPABLE_ZSTD.match(start) is not None or start[257:262] == b"ustar"


def _check_start(blob: Blob, reply: Reply[bytes] | Reply[Hashed], start: bytes) -> Fault | None:
    if _is_layer(start):
        return None
    if reply.headers.get("Content-Type", "").lower().startswith("text/html"):
        return not_a_layer(blob.digest, blob.size, "a web page")
    if _COMPRESSED.search(blob.media_type) is None:
        return None
    return not_a_layer(blob.digest, blob.size, f"something that begins with {start[:4]!r}")


def _check_digest(blob: Blob, reply: Reply[Hashed]) -> Fault | None:
    got = reply.received
    if got.digest == blob.digest and got.size == blob.size:
        return None
    if got.size and (fault := _check_start(blob, reply, got.start)) is not None:
        return fault
    if got.size != blob.size:
        measured = "Content-Length" in reply.headers or "Transfer-Encoding" in reply.headers
        return (
            _too_short(blob, got.size) if measured else unreachable(reply.host, "the connection ended within a layer")
        )
    return digest_mismatch("layer", blob.digest, got.digest, blob.size)
