"""Two ranges of a blob in one reply, if the server supports it: multipart/byteranges (RFC 9110, 14.6)."""

import re
from http import HTTPStatus

from provisioner.adapters.registry.http import Reply

MAX_REPLY = 4096  # bytes of a reply with two parts of a few bytes each, including the parts' headers

_PART = re.compile(
    rb"\r\nContent-Range: *bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})\r\n(?:[^\r\n]+\r\n)*\r\n", re.IGNORECASE
)


def range_header(*spans: tuple[int, int]) -> dict[str, str]:
    """Return the header that asks for each span of (first, last) byte."""
    return {"Range": f"bytes={','.join(f'{first}-{last}' for first, last in spans)}"}


def read_parts(reply: Reply[bytes]) -> dict[tuple[int, int, int], bytes]:
    """Return bytes by (first, last, length of the whole); a part that was cut off is shorter.

    Empty if the reply has no parts.
    """
    kind = reply.headers.get("Content-Type", "").lower()
    if reply.status != HTTPStatus.PARTIAL_CONTENT or not kind.startswith("multipart/byteranges"):
        return {}
    return dict(_read_part(reply.received, match) for match in _PART.finditer(reply.received))


def _read_part(body: bytes, head: re.Match[bytes]) -> tuple[tuple[int, int, int], bytes]:
    first, last, whole = map(int, head.groups())
    return (first, last, whole), body[head.end() : head.end() + last - first + 1]
