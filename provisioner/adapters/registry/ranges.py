"""Two ranges of a blob in one reply, where the server knows how: multipart/byteranges (RFC 9110, 14.6)."""

import re
from http import HTTPStatus

from provisioner.adapters.registry.http import Reply

LONGEST = 4096  # bytes of a reply with two parts of a few bytes, with the heads of the parts

_PART = re.compile(rb"\r\nContent-Range: *bytes (\d+)-(\d+)/(\d+)\r\n(?:[^\r\n]+\r\n)*\r\n", re.IGNORECASE)


def asking_for(*spans: tuple[int, int]) -> dict[str, str]:
    """The header for ranges from the first to the last byte of each."""
    return {"Range": f"bytes={','.join(f'{first}-{last}' for first, last in spans)}"}


def parts(reply: Reply[bytes]) -> dict[tuple[int, int, int], bytes]:
    """Bytes by (first, last, length of the whole), in as far as they came; empty where the reply has no parts."""
    kind = reply.headers.get("Content-Type", "").lower()
    if reply.status != HTTPStatus.PARTIAL_CONTENT or not kind.startswith("multipart/byteranges"):
        return {}
    return dict(_part(reply.received, match) for match in _PART.finditer(reply.received))


def _part(body: bytes, head: re.Match[bytes]) -> tuple[tuple[int, int, int], bytes]:
    first, last, whole = map(int, head.groups())
    return (first, last, whole), body[head.end() : head.end() + last - first + 1]
