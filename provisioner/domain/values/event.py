"""Events of a run. The terminal shows and the journal records the same list."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

from provisioner.domain.values.model import Value

Phase = Literal[
    "probe",
    "claim",
    "catalog",
    "lock",
    "build",
    "plan",
    "fetch",
    "stage",
    "switch",
    "verify",
    "notice",
    "disk",
    "report",
    "prepare",
]
EventKind = Literal["started", "progress", "done", "failed", "skipped", "note"]


class Event(Value):
    """Progress or a result of a run. `node` is None for the whole run.

    `done` and `total` are bytes if `unit` is "B", else counts.
    """

    phase: Phase
    kind: EventKind
    node: str | None = None
    text: str = ""
    done: int | None = None
    total: int | None = None
    unit: str = ""
    data: dict[str, Any] = {}


class RecordedEvent(Value):
    """An event with its place in the journal of a run."""

    seq: int
    at: datetime
    event: Event


OnEvent = Callable[[Event], None]
