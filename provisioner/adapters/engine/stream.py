"""Parse the messages of an engine that pulls, pushes or builds into progress and errors."""

import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

# The second is that of a layer with containerd's image store (moby: daemon/containerd/progress.go).
_MOVING = ("Downloading", "Pulling layer fs", "Pushing")
_STEP = re.compile(r"Step (\d+)/(\d+) : ")
_PUSHED = re.compile(r"(?P<tag>\w[\w.-]{0,127}): digest: (?P<digest>sha256:[0-9a-f]{64}) size: \d+")
_INTERVAL = 1.0  # seconds between two updates
_LINES = 20  # of a failed build's output

Message = Mapping[str, Any]


class EngineError(Exception):
    """The engine reported a failure. The text is that of the engine."""


class ProgressUpdate(NamedTuple):
    """Progress of the engine. `done` and `total` are bytes of a pull or push, steps of a build."""

    text: str
    done: int
    total: int


def transfer_progress(messages: Iterable[Message], total: int) -> Iterator[ProgressUpdate]:
    """Yield the bytes of all layers together. `total` in bytes, 0 if unknown. Raises EngineError at the end."""
    layers: dict[str, tuple[int, int]] = {}
    for message in _read_all(messages, ()):
        detail = message.get("progressDetail") or {}
        if message.get("status") in _MOVING and "current" in detail:
            layers[message["id"]] = (detail["current"], detail.get("total", 0))
            done = sum(current for current, _ in layers.values())
            yield ProgressUpdate(
                str(message["status"]), done, max(total or sum(size for _, size in layers.values()), done)
            )


def note_digest(messages: Iterable[Message], tag: str, found: list[str]) -> Iterator[Message]:
    """Yield the messages of a push, and append to `found` the digest that the engine computed for `tag`.

    Engines with either image store report it in this line (moby: distribution/push_v2.go, containerd/image_push.go).
    """
    for message in messages:
        if reported := _PUSHED.fullmatch(str(message.get("status", ""))):
            found += [reported["digest"]] if reported["tag"] == tag else []
        yield message


def build_progress(messages: Iterable[Message]) -> Iterator[ProgressUpdate]:
    """Yield one update for each line of output. Raises EngineError with the last lines."""
    output, done, total = deque[str](maxlen=_LINES), 0, 0
    for message in _read_all(messages, output):
        for line in str(message.get("stream", "")).splitlines():
            if not line.strip():
                continue
            output.append(line)
            if step := _STEP.match(line):
                done, total = int(step[1]), int(step[2])
            yield ProgressUpdate(line.strip(), done, total)


def throttle(updates: Iterable[ProgressUpdate], seconds: float = _INTERVAL) -> Iterator[ProgressUpdate]:
    """Yield the first and the last update, and between them at most one each `seconds`: each one is recorded."""
    yielded_at, pending = float("-inf"), None
    for update in updates:
        pending = update
        if time.monotonic() - yielded_at >= seconds:
            yield update
            yielded_at, pending = time.monotonic(), None
    if pending is not None:
        yield pending


def _read_all(messages: Iterable[Message], output: Iterable[str]) -> Iterator[Message]:
    """Yield all messages, which frees the connection of the engine, and only then raise its error."""
    error = None
    for message in messages:
        error = error or message.get("error")
        yield message
    if error is not None:
        raise EngineError("\n".join([*output, str(error)]))
