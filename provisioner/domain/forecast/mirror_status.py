"""How a mirror stands to a wish: each tag that would meet it, how far it is, and what to do."""

from collections.abc import Iterable
from datetime import UTC, datetime

from pydantic import Field

from provisioner.domain.compatibility.torch_version import torch_fits, torch_order
from provisioner.domain.forecast.feed import FeedReading
from provisioner.domain.forecast.forecast import Decision, Forecast, Presence
from provisioner.domain.forecast.history import Learned
from provisioner.domain.forecast.mirror_profile import MirrorProfile
from provisioner.domain.lab.lab import MirrorKind
from provisioner.domain.values.image import Flavour, ImageFacts
from provisioner.domain.values.model import Document, Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.sync import SyncState

MIRROR_STATUS_SCHEMA = "provisioner/outlook/1"
_RANKS: tuple[Decision, ...] = ("move_now", "wait_until", "choose_other_tag", "use_other_mirror", "never")
_LAST = datetime.max.replace(tzinfo=UTC)

# What stands in the way of a whole mirror, as the state of each of its tags.
_STATES = {
    "no_such_service": SyncState.NO_SUCH_SERVICE,
    "denied": SyncState.DENIED,
    "auth_failed": SyncState.DENIED,
    "rate_limited": SyncState.LIMITED,
    "repository_missing": SyncState.ABSENT,
}


class TagStatus(Value):
    """One tag that would meet the wish. Sizes in bytes."""

    reference: str
    torch: str | None
    state: SyncState
    upstream: Presence
    bytes: int = 0
    bytes_missing: int = 0
    forecast: Forecast


class MirrorStatus(Document):
    """`reference`: an image that meets the wish and is complete now. `forecast`: what to do about the wish."""

    schema_: str = Field(default=MIRROR_STATUS_SCHEMA, alias="schema")
    mirror: str
    kind: MirrorKind
    torch: str
    checked_at: datetime
    reference: str | None = None
    forecast: Forecast
    tags: tuple[TagStatus, ...] = ()
    feed: FeedReading | None = None
    learned: Learned
    profile: MirrorProfile | None = None
    problems: tuple[Problem, ...] = ()


def meets(facts: ImageFacts, torch: str, flavour: Flavour) -> bool:
    """Whether an image is what was asked for, and it is known what it is."""
    fits = torch_fits(facts.torch, torch) and flavour in {"runtime", facts.flavour}
    return fits and not facts.problems


def newest_first(rows: Iterable[ImageFacts]) -> list[ImageFacts]:
    return sorted(
        rows, key=lambda facts: (torch_order(facts.torch), facts.cuda.key if facts.cuda else ()), reverse=True
    )


def best(rows: Iterable[TagStatus]) -> TagStatus | None:
    """The one to go by: what is there now, else what comes first; of equals the first."""
    return min(rows, key=_rank, default=None)


def state_of(problems: Iterable[Problem]) -> SyncState:
    """Of a mirror that could not be listed."""
    return next((_STATES.get(problem.code, SyncState.UNKNOWN) for problem in problems), SyncState.UNKNOWN)


def _rank(row: TagStatus) -> tuple[bool, int, datetime]:
    told = row.forecast
    return row.state is not SyncState.COMPLETE, _RANKS.index(told.decision), told.p50 or _LAST
