"""Facts as a probe sends them: texts of files once for all seats of a node, and texts and accounts compressed."""

import base64
import json
import zlib
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

PACKED = {"accounts", "texts"}  # the facts that are compressed, and each bounded where it is read
_MAX_PACKED = 700_000  # characters; ansible-runner passes on no longer result
_MAX_ACCOUNTS = 4 << 20  # bytes of JSON; the node sends half as many
_MAX_TEXTS = 8 << 20  # bytes of the different texts; those of 200 seats have 2 MB


def unpack_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts with the text of each file in its place, of which the node has sent a number, and the accounts.

    Raises ValueError, LookupError, TypeError or AttributeError where the node did not send what our module sends.
    """
    texts = _texts(_unpack(facts["texts"], _MAX_TEXTS), facts["lengths"])
    seats = [{**seat, "files": {name: texts[key] for name, key in seat["files"].items()}} for seat in facts["seats"]]
    accounts = json.loads(_unpack(facts["accounts"], _MAX_ACCOUNTS))
    return {**{name: facts[name] for name in facts.keys() - PACKED}, "seats": seats, "accounts": accounts}


def _texts(joined: str, lengths: list[int]) -> dict[int, str]:
    """Return the texts by their numbers; `lengths` are their numbers of characters."""
    if min(lengths, default=0) < 0 or sum(lengths) != len(joined):
        raise ValueError("its texts have not the lengths that it names")
    ends = accumulate(lengths)
    return {number: joined[end - length : end] for number, (length, end) in enumerate(zip(lengths, ends, strict=True))}


def _unpack(packed: str, limit: int) -> str:
    """Return a text that was compressed to base64 of zlib. Raises ValueError: damaged, or more than `limit` bytes."""
    if len(packed) > _MAX_PACKED:
        raise ValueError("it is larger than any valid result")
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(base64.b64decode(packed, validate=True), limit + 1)
    except zlib.error as error:
        raise ValueError(f"what it has compressed is damaged: {error}") from None
    if len(data) > limit:
        raise ValueError("it is larger than any valid result")
    if not stream.eof:
        raise ValueError("what it has compressed is not complete")
    return data.decode()
