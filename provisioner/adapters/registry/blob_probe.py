"""Can this blob be had, to its last byte? Asked with a few bytes, because HEAD is not to be believed.

Stock registries answer HEAD from a cache of descriptors, with the right length for a layer that was deleted or
truncated; a proxy answers it by downloading the layer, or with 404 for one that it could get. A range of the last byte
has to read the file. Both ends are asked for at once; only where they do not come so, one after the other, and what is
then said of the layer rests on that alone. See the distribution specification on Range, and goharbor/harbor#22609,
#23875, #23882.
"""

import re
from dataclasses import dataclass, field
from http import HTTPStatus
from threading import Event

from provisioner.adapters.registry.http import BodyCutShort, Hashed, Refused, Reply, Request, hashed, up_to
from provisioner.adapters.registry.ranges import LONGEST, asking_for, parts
from provisioner.adapters.registry.session import Session
from provisioner.domain.registry.image_problems import (
    Fault,
    cold,
    digest_mismatch,
    layer_missing,
    layer_truncated,
    not_a_layer,
    unmeasured,
    unreachable,
)
from provisioner.domain.registry.manifest import Blob
from provisioner.domain.values.sync import SyncState

_SMALL = 1 << 16  # read whole: one round trip, and proof instead of a sign
_START = 4
_SLOWEST = 100_000  # bytes a second: below that a layer of gigabytes is not to be had
_MAGICS = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zX")  # engines go by these, not by the media type
_SKIPPABLE_ZSTD = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
_COMPRESSED = re.compile(r"(\.|\+)(gzip|zstd)$")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_UNSATISFIED = re.compile(r"bytes \*/(\d+)")
_GONE = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)


@dataclass(frozen=True, slots=True)
class Probe:
    """`lazy`: a mirror that may answer for a blob it would only then fetch from its upstream.

    `without_parts` is set once the server has shown that it knows a range but not two of them.
    """

    session: Session
    lazy: bool
    without_parts: Event = field(default_factory=Event)

    def look(self, repository: str, blob: Blob, *, deep: bool) -> Fault | None:
        """None where the blob can be had. `deep` reads and hashes every byte."""
        try:
            return self._whole(repository, blob) if deep or blob.size <= _SMALL else self._ends(repository, blob)
        except BodyCutShort as cut:
            return _shorter(blob, cut.got)
        except Refused as refused:
            return refused.fault

    def _whole(self, repository: str, blob: Blob) -> Fault | None:
        request = Request("", extra=blob.size / _SLOWEST)
        reply = self.session.ask(_path(repository, blob), hashed, repository, request)
        return _judge_whole(blob, reply) if reply.status == HTTPStatus.OK else _no_blob(blob, reply)

    def _ends(self, repository: str, blob: Blob) -> Fault | None:
        if self.lazy or self.without_parts.is_set():
            return self._each_end(repository, blob)
        if self._has_both_ends(repository, blob):
            return None
        fault = self._each_end(repository, blob)
        if fault is None:
            self.without_parts.set()
        return fault

    def _has_both_ends(self, repository: str, blob: Blob) -> bool:
        """False is no verdict."""
        start, end = (0, _START - 1), (blob.size - 1, blob.size - 1)
        request = Request("", headers=asking_for(start, end))
        try:
            reply = self.session.ask(_path(repository, blob), up_to(LONGEST), repository, request)
        except BodyCutShort:
            return False
        except Refused as refused:
            if refused.fault.state is not SyncState.DENIED:
                raise
            return False
        found = parts(reply)
        return len(found.get((*end, blob.size), b"")) == 1 and _is_layer(found.get((*start, blob.size), b""))

    def _each_end(self, repository: str, blob: Blob) -> Fault | None:
        last = blob.size - 1
        try:
            tail = self._range(repository, blob, last, last)
        except BodyCutShort:
            return self._without_end(repository, blob)
        if not _is_range(tail, last, last):
            return self._not_the_range(repository, blob, tail)
        if (has := _total(tail)) is not None and has != blob.size:
            return _shorter(blob, has)
        if len(tail.received) != 1:
            return self._without_end(repository, blob)
        head = self._range(repository, blob, 0, _START - 1)
        if not _is_range(head, 0, _START - 1):
            return self._not_the_range(repository, blob, head)
        return _judge_start(blob, head, head.received)

    def _without_end(self, repository: str, blob: Blob) -> Fault:
        """A cache of descriptors tells the old length of a file that was cut; or is gone, if no start comes either."""
        head = self._range(repository, blob, 0, _START - 1)
        return _no_blob(blob, head) if head.status in _GONE else layer_truncated(blob.digest, blob.size)

    def _range(self, repository: str, blob: Blob, first: int, last: int) -> Reply[bytes]:
        request = Request("", headers=asking_for((first, last)))
        return self.session.ask(_path(repository, blob), up_to(_START), repository, request)

    def _not_the_range(self, repository: str, blob: Blob, reply: Reply[bytes]) -> Fault | None:
        if (has := _total(reply)) is not None and has != blob.size:
            return _shorter(blob, has)
        if reply.status == HTTPStatus.OK:
            return self._judge_announced(blob, reply)
        if reply.status in _GONE:
            return _no_blob(blob, reply)
        # A server that refuses ranges: the start of the whole, and its announced length.
        plain = self.session.ask(_path(repository, blob), up_to(_START), repository)
        return self._judge_announced(blob, plain) if plain.status == HTTPStatus.OK else _no_blob(blob, plain)

    def _judge_announced(self, blob: Blob, reply: Reply[bytes]) -> Fault | None:
        """A whole body, of which only the start was read: its length is what the server says."""
        if not reply.received:
            return _shorter(blob, 0)
        if (fault := _judge_start(blob, reply, reply.received)) is not None:
            return fault
        if self.lazy:
            return cold()
        length = reply.headers.get("Content-Length", "")
        if not length.isdecimal():
            return unmeasured(blob.digest)
        return None if int(length) == blob.size else _shorter(blob, int(length))


def _path(repository: str, blob: Blob) -> str:
    return f"{repository}/blobs/{blob.digest}"


def _shorter(blob: Blob, has: int) -> Fault:
    """A registry that still knows a layer by name but has not one byte of it does not have it."""
    return layer_truncated(blob.digest, blob.size, has) if has else layer_missing(blob.digest, blob.size)


def _no_blob(blob: Blob, reply: Reply[bytes] | Reply[Hashed]) -> Fault:
    if reply.status in _GONE:
        return layer_missing(blob.digest, blob.size)
    return unreachable(reply.host, f"HTTP {reply.status} for a layer")


def _is_range(reply: Reply[bytes], first: int, last: int) -> bool:
    match = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", ""))
    is_it = match is not None and (int(match[1]), int(match[2])) == (first, last)
    return reply.status == HTTPStatus.PARTIAL_CONTENT and is_it


def _total(reply: Reply[bytes]) -> int | None:
    """How long the blob is by a 206 or a 416."""
    text = reply.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(text)
    if match is not None:
        return int(match[3])
    unsatisfied = _UNSATISFIED.fullmatch(text)
    return None if unsatisfied is None else int(unsatisfied[1])


def _is_layer(start: bytes) -> bool:
    """For certain; one that is not compressed begins with anything."""
    return start.startswith(_MAGICS) or _SKIPPABLE_ZSTD.match(start) is not None


def _judge_start(blob: Blob, reply: Reply[bytes] | Reply[Hashed], start: bytes) -> Fault | None:
    if _is_layer(start):
        return None
    if reply.headers.get("Content-Type", "").lower().startswith("text/html"):
        return not_a_layer(blob.digest, blob.size, "a web page")
    if _COMPRESSED.search(blob.media_type) is None:
        return None
    return not_a_layer(blob.digest, blob.size, f"something that begins with {start!r}")


def _judge_whole(blob: Blob, reply: Reply[Hashed]) -> Fault | None:
    got = reply.received
    if got.digest == blob.digest and got.size == blob.size:
        return None
    if got.size and (fault := _judge_start(blob, reply, got.start)) is not None:
        return fault
    if got.size != blob.size:
        measured = "Content-Length" in reply.headers or "Transfer-Encoding" in reply.headers
        return _shorter(blob, got.size) if measured else unreachable(reply.host, "it broke off within a layer")
    return digest_mismatch("layer", blob.digest, got.digest, blob.size)
