"""The status of a mirror for the requested image: each matching tag, its sync state and its forecast."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from packaging.version import Version
from pydantic import Field

from provisioner.domain.compatibility.torch_version import torch_fits, torch_order
from provisioner.domain.forecast.feed import FeedReading
from provisioner.domain.forecast.forecast import Decision, Forecast, Presence
from provisioner.domain.forecast.history import JobStatistics
from provisioner.domain.forecast.mirror_profile import MirrorProfile
from provisioner.domain.lab.lab import MirrorKind
from provisioner.domain.values.image import Flavour, ImageFacts
from provisioner.domain.values.model import Document, Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.sync import SyncState

MIRROR_STATUS_SCHEMA = "provisioner/outlook/1"
_RANKS: tuple[Decision, ...] = ("move_now", "wait_until", "choose_other_tag", "use_other_mirror", "never")
_NUMBER = re.compile(r"[0-9]{1,9}")
_LAST = datetime.max.replace(tzinfo=UTC)

# The state of every tag of a mirror that could not be listed, by the code of the problem.
_STATES = {
    "no_such_service": SyncState.NO_SUCH_SERVICE,
    "denied": SyncState.DENIED,
    "auth_failed": SyncState.DENIED,
    "rate_limited": SyncState.LIMITED,
    "repository_missing": SyncState.ABSENT,
}


class TagStatus(Value):
    """One tag that satisfies the request. Sizes in bytes."""

    reference: str
    torch: str | None
    state: SyncState
    upstream: Presence
    bytes: int = 0
    bytes_missing: int = 0
    forecast: Forecast


class MirrorStatus(Document):
    """The status of a mirror. `reference`: an image that satisfies the request and is complete; None if there is none.

    `forecast`: the best one of all tags.
    """

    schema_: str = Field(default=MIRROR_STATUS_SCHEMA, alias="schema")
    mirror: str
    kind: MirrorKind
    torch: str
    checked_at: datetime
    reference: str | None = None
    forecast: Forecast
    tags: tuple[TagStatus, ...] = ()
    feed: FeedReading | None = None
    learned: JobStatistics
    profile: MirrorProfile | None = None
    problems: tuple[Problem, ...] = ()


def meets(facts: ImageFacts, torch: str, flavour: Flavour) -> bool:
    """Whether an image satisfies the requested torch and flavour, and its facts are known without problems."""
    fits = torch_fits(facts.torch, torch) and flavour in {"runtime", facts.flavour}
    return fits and not facts.problems


def newest_first(rows: Iterable[ImageFacts]) -> list[ImageFacts]:
    """Sort by torch version and then CUDA version, newest first; others by NGC's month, then the numbers in the tag."""
    return sorted(rows, key=_newness, reverse=True)


def _newness(facts: ImageFacts) -> tuple[Version, tuple[int, ...], str, tuple[int, ...]]:
    numbers = tuple(int(digits) for digits in _NUMBER.findall(facts.reference.rpartition(":")[2]))
    return torch_order(facts.torch), facts.cuda.key if facts.cuda else (), facts.month or "", numbers


def best(rows: Iterable[TagStatus]) -> TagStatus | None:
    """Return the complete tag, else the one that is expected first; of equals the first. None if there are no rows."""
    return min(rows, key=_rank, default=None)


def state_of(problems: Iterable[Problem]) -> SyncState:
    """Return the sync state of every tag of a mirror that could not be listed."""
    return next((_STATES.get(problem.code, SyncState.UNKNOWN) for problem in problems), SyncState.UNKNOWN)


def _rank(row: TagStatus) -> tuple[bool, int, datetime]:
    return row.state is not SyncState.COMPLETE, _RANKS.index(row.forecast.decision), row.forecast.p50 or _LAST
