"""What we have seen of a mirror ourselves, and what that teaches of its habits.

A mirror publishes neither the interval of a job nor how long its runs take; both are learned by looking again and
again. Durations are in seconds.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from provisioner.domain.forecast.feed import Job, JobStatus
from provisioner.domain.values.model import Value
from provisioner.domain.values.sync import SyncState

ENOUGH = 5  # finished runs, below which what was learned is only a prior

# Priors. Interval: tunasync's jobs at TUNA in 2026 (pypi: ended + 43200 s exactly). The others are guesses, and wide.
_INTERVAL = 12 * 3600.0
_RUN = (3600.0, 4 * 3600.0)
_LAG = (300.0, 3600.0)
_FAILED = 0.1
_WIDER = 3  # times the median, where too few runs were seen to know the slow ones


class FeedSeen(Value):
    kind: Literal["feed"] = "feed"
    at: datetime
    job: Job


class TagSeen(Value):
    """A tag as a look at its layers found it."""

    kind: Literal["tag"] = "tag"
    at: datetime
    repository: str
    tag: str
    state: SyncState
    bytes_missing: int = 0


class ListedSeen(Value):
    """The first time that an upstream listed a tag."""

    kind: Literal["listed"] = "listed"
    at: datetime
    repository: str
    tag: str


Sighting = Annotated[FeedSeen | TagSeen | ListedSeen, Field(discriminator="kind")]
SIGHTING: TypeAdapter[FeedSeen | TagSeen | ListedSeen] = TypeAdapter(Sighting)


class Learned(Value):
    """The habits of one job. Pairs are the median and the value that nine of ten stay below.

    `lag`: from when it was due to when it ran. `failed`: share of finished runs. `runs`: start and end of each that
    succeeded. `is_prior`: fewer than ENOUGH runs were seen end, so much of it is an assumption.
    """

    interval: float = _INTERVAL
    run: tuple[float, float] = _RUN
    lag: tuple[float, float] = _LAG
    failed: float = _FAILED
    finished: int = 0
    runs: tuple[tuple[datetime, datetime], ...] = Field(default=(), exclude=True)

    @property
    def is_prior(self) -> bool:
        return self.finished < ENOUGH


def learn(sightings: Iterable[Sighting], name: str) -> Learned:
    jobs = [seen.job for seen in _ordered(sightings) if isinstance(seen, FeedSeen) and seen.job.name == name]
    finished = {job.last_ended: job.status for job in jobs if job.last_ended and _is_final(job)}
    runs = tuple((start, end) for end, start in dict(_runs(jobs)).items())
    intervals = [seconds for job in jobs if (seconds := _interval(job)) is not None]
    interval = median(intervals) if intervals else _INTERVAL
    few = len(finished) < ENOUGH
    return Learned(
        interval=interval,
        run=_both([(end - start).total_seconds() for start, end in runs], _RUN, few=few),
        lag=_both(list(dict(_lags(jobs, interval)).values()), _LAG, few=few),
        failed=_FAILED if few else sum(s is JobStatus.FAILED for s in finished.values()) / len(finished),
        finished=len(finished),
        runs=runs,
    )


def first_listed(sightings: Iterable[Sighting], tag: str) -> datetime | None:
    """By when a tag was there upstream, as far as we saw."""
    return min((seen.at for seen in sightings if isinstance(seen, ListedSeen) and seen.tag == tag), default=None)


def looks_at(sightings: Iterable[Sighting], tag: str) -> tuple[TagSeen, ...]:
    return tuple(seen for seen in _ordered(sightings) if isinstance(seen, TagSeen) and seen.tag == tag)


def news(known: Sequence[Sighting], seen: Iterable[Sighting]) -> list[Sighting]:
    """What of `seen` says something that the latest record of the same thing does not."""
    last = {_subject(before): _substance(before) for before in known}
    return [now for now in seen if last.get(_subject(now)) != _substance(now)]


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of them that `share` of them do not exceed."""
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1]


def _subject(seen: Sighting) -> tuple[str, ...]:
    return (seen.kind, seen.job.name) if isinstance(seen, FeedSeen) else (seen.kind, seen.repository, seen.tag)


def _substance(seen: Sighting) -> Sighting:
    return seen.model_copy(update={"at": None})


def _ordered(sightings: Iterable[Sighting]) -> list[Sighting]:
    return sorted(sightings, key=lambda seen: seen.at)


def _is_final(job: Job) -> bool:
    """A failed run that will be retried at once is not over yet."""
    return job.status is JobStatus.SUCCESS or (job.status is JobStatus.FAILED and job.next_schedule is not None)


def _interval(job: Job) -> float | None:
    """tunasync sets the next run when one ended: its end and the interval (worker/worker.go, runSchedule)."""
    if not _is_final(job) or job.next_schedule is None or job.last_ended is None:
        return None
    seconds = (job.next_schedule - job.last_ended).total_seconds()
    return seconds if seconds > 0 else None


def _runs(jobs: Iterable[Job]) -> Iterator[tuple[datetime, datetime]]:
    """End and start of each successful run; mirrorz tells a start only while the run goes on."""
    started = None
    for job in jobs:
        started = job.last_started or started
        if job.status is JobStatus.SUCCESS and job.last_ended and started and started < job.last_ended:
            yield job.last_ended, started


def _lags(jobs: Sequence[Job], interval: float) -> Iterator[tuple[datetime, float]]:
    """For each time at which the job was due, by how much later it ran. A longer gap hides runs that nobody saw."""
    for before, after in pairwise(jobs):
        if before.next_schedule is None or after.last_started is None:
            continue
        seconds = (after.last_started - before.next_schedule).total_seconds()
        if 0 <= seconds < interval:
            yield before.next_schedule, seconds


def _both(values: Sequence[float], prior: tuple[float, float], *, few: bool) -> tuple[float, float]:
    if not values:
        return prior
    middle = median(values)
    return (middle, max(prior[1], _WIDER * middle)) if few else (middle, quantile(values, 0.9))
