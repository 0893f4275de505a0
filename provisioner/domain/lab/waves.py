"""The waves of a rollout, its failure budget, and how many nodes pull at once."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

_SHARE = re.compile(r"\d{1,4}|(100|\d{1,2})%")
# A safety factor for the time of a pull: throughput varies, and others use the network too.
_SAFETY_FACTOR = 2


def _check_share(value: object) -> str:
    text = str(value)
    if isinstance(value, bool) or not _SHARE.fullmatch(text):
        raise ValueError(f"not a number of nodes or a percentage such as 25%: {text}")
    return text


Share = Annotated[
    str,
    BeforeValidator(_check_share),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^({_SHARE.pattern})$"}]}
    ),
    Field(description="A number of nodes, or a percentage in quotes"),
]


def waves(nodes: Sequence[str], shares: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Split the nodes into waves.

    Each share is the number of nodes up to the end of its wave, rounded up; the last wave has the remaining nodes. No
    wave is empty, and every node is in exactly one.
    """
    ends = sorted({min(_round_up(share, len(nodes)), len(nodes)) for share in shares} | {0, len(nodes)})
    return tuple(tuple(nodes[begin:end]) for begin, end in pairwise(ends))


def budget(share: str, nodes: int) -> int:
    """Return how many of `nodes` may fail, rounded down."""
    return int(share[:-1]) * nodes // 100 if share.endswith("%") else int(share)


def max_concurrent_pulls(line: float | None, bytes_each: int, seconds: int) -> int | None:
    """Return how many nodes may pull `bytes_each` at once, so that each pull ends within half of its `seconds`.

    `line` is the registry's highest measured throughput in bytes per second over all nodes, a lower bound of what it
    can deliver. None means no bound: nothing was measured, or nothing is to be pulled.
    """
    if line is None or not bytes_each:
        return None
    return max(int(line * seconds / _SAFETY_FACTOR / bytes_each), 1)


def _round_up(share: str, nodes: int) -> int:
    return -(-int(share[:-1]) * nodes // 100) if share.endswith("%") else int(share)
