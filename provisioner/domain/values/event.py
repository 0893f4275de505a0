"""News of a run: what a person is shown and what the journal records are this one list."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

from provisioner.domain.values.model import Value

Phase = Literal[
    "probe", "claim", "catalog", "lock", "build", "plan", "stage", "switch", "verify", "notice", "report", "prepare"
]
EventKind = Literal["started", "progress", "done", "failed", "skipped", "note"]


class Event(Value):
    """`node` is None for news of the whole run. `done` and `total` are bytes where `unit` is "B", else a count."""

    phase: Phase
    kind: EventKind
    node: str | None = None
    text: str = ""
    done: int | None = None
    total: int | None = None
    unit: str = ""
    data: dict[str, Any] = {}


class Recorded(Value):
    """An event with its place in the journal of a run."""

    seq: int
    at: datetime
    event: Event


OnEvent = Callable[[Event], None]
