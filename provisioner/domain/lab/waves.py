"""In which steps a rollout goes on, how much may go wrong before it stops, and how many nodes pull at once."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

_SHARE = re.compile(r"\d{1,4}|(100|\d{1,2})%")
# Of a node's time to pull: what was measured is no promise, and others use the line, too.
_MARGIN = 2


def _share(given: object) -> str:
    text = str(given)
    if isinstance(given, bool) or not _SHARE.fullmatch(text):
        raise ValueError(f"not a number of nodes or a percentage such as 25%: {text}")
    return text


Share = Annotated[
    str,
    BeforeValidator(_share),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^({_SHARE.pattern})$"}]}
    ),
    Field(description="A number of nodes, or a percentage in quotes"),
]


def waves(nodes: Sequence[str], shares: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Each of `shares` says how far its wave reaches, counted from the first node and rounded up; the rest comes last.

    No wave is empty, and every node is in exactly one.
    """
    ends = sorted({min(_up(share, len(nodes)), len(nodes)) for share in shares} | {0, len(nodes)})
    return tuple(tuple(nodes[begin:end]) for begin, end in pairwise(ends))


def budget(share: str, nodes: int) -> int:
    """How many of `nodes` may end badly; rounded down, for half a node more is a node too many."""
    return int(share[:-1]) * nodes // 100 if share.endswith("%") else int(share)


def pulls_at_once(line: float | None, bytes_each: int, seconds: int) -> int | None:
    """How many nodes may pull `bytes_each` together, so that each is done within half of its `seconds`.

    `line` is what the registry was seen to give, in bytes per second over all nodes: taken as all that it has, which
    errs to the slow side. None, no bound: nothing was measured, or nothing is to be pulled.
    """
    if line is None or not bytes_each:
        return None
    return max(int(line * seconds / _MARGIN / bytes_each), 1)


def _up(share: str, nodes: int) -> int:
    return -(-int(share[:-1]) * nodes // 100) if share.endswith("%") else int(share)
