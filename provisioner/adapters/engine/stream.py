"""What an engine says while it pulls, pushes and builds, as progress and as the end of a failed one."""

import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

_MOVING = ("Downloading", "Pushing")
_STEP = re.compile(r"Step (\d+)/(\d+) : ")
_SECONDS = 1.0  # between two pieces of news
_LINES = 20

Message = Mapping[str, Any]


class EngineSaid(Exception):  # noqa: N818  (its text is the engine's own)
    """The engine ended what it was doing."""


class News(NamedTuple):
    """`done` and `total` are bytes of a pull or push, steps of a build."""

    text: str
    done: int
    total: int


def transfer(messages: Iterable[Message], total: int) -> Iterator[News]:
    """`total` in bytes, 0 where only the engine knows. Raises EngineSaid."""
    layers: dict[str, tuple[int, int]] = {}
    for message in _to_the_end(messages, ()):
        detail = message.get("progressDetail") or {}
        if message.get("status") in _MOVING and "current" in detail:
            layers[message["id"]] = (detail["current"], detail.get("total", 0))
            done = sum(current for current, _ in layers.values())
            yield News(str(message["status"]), done, max(total or sum(size for _, size in layers.values()), done))


def build(messages: Iterable[Message]) -> Iterator[News]:
    """One piece of news for each line. Raises EngineSaid with the last lines."""
    said, done, total = deque[str](maxlen=_LINES), 0, 0
    for message in _to_the_end(messages, said):
        for line in str(message.get("stream", "")).splitlines():
            if not line.strip():
                continue
            said.append(line)
            if step := _STEP.match(line):
                done, total = int(step[1]), int(step[2])
            yield News(line.strip(), done, total)


def spaced(news: Iterable[News], seconds: float = _SECONDS) -> Iterator[News]:
    """The first, the last, and between them at most one each `seconds`: news are shown and written down."""
    shown, waiting = float("-inf"), None
    for piece in news:
        waiting = piece
        if time.monotonic() - shown >= seconds:
            yield piece
            shown, waiting = time.monotonic(), None
    if waiting is not None:
        yield waiting


def _to_the_end(messages: Iterable[Message], said: Iterable[str]) -> Iterator[Message]:
    """All of them, so that the engine's connection is free again; then raises what went wrong."""
    error = None
    for message in messages:
        error = error or message.get("error")
        yield message
    if error is not None:
        raise EngineSaid("\n".join([*said, str(error)]))
