"""Observations of a mirror over time, and the statistics of its sync jobs that follow from them.

A mirror publishes neither the interval of a job nor the duration of its runs; both are estimated from repeated
observations. Durations are in seconds.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, TypeAdapter

from provisioner.domain.forecast.feed import Job, JobStatus
from provisioner.domain.values.model import Value
from provisioner.domain.values.sync import SyncState

MIN_RUNS = 5  # finished runs; with fewer, the statistics are only a prior

# Priors. Interval: tunasync's jobs at TUNA in 2026 (pypi: ended + 43200 s exactly). The others are wide guesses.
_INTERVAL = 12 * 3600.0
_MAX_INTERVAL = 366 * 24 * 3600.0  # a longer one comes from a time that is wrong, as a last end in the year 2000
_RUN = (3600.0, 4 * 3600.0)
_LAG = (300.0, 3600.0)
_FAILED = 0.1
_WIDER = 3  # times the median, where too few runs were observed to know the slow ones


class FeedObservation(Value):
    """The entry of a job in the mirror's feed at one time."""

    kind: Literal["feed"] = "feed"
    at: AwareDatetime
    job: Job


class TagObservation(Value):
    """The state of a tag after a check of its layers."""

    kind: Literal["tag"] = "tag"
    at: AwareDatetime
    repository: str
    tag: str
    state: SyncState
    bytes_missing: int = 0


class ListingObservation(Value):
    """A time at which an upstream listed a tag; the first one is kept."""

    kind: Literal["listed"] = "listed"
    at: AwareDatetime
    repository: str
    tag: str


Observation = Annotated[FeedObservation | TagObservation | ListingObservation, Field(discriminator="kind")]
OBSERVATION: TypeAdapter[FeedObservation | TagObservation | ListingObservation] = TypeAdapter(Observation)


class JobStatistics(Value):
    """Statistics of one sync job. Pairs are the median and the 90th percentile, in seconds.

    `lag`: from the scheduled time to the start. `failed`: share of the finished runs. `runs`: start and end of each
    successful run. `has_interval`: the interval was observed, not assumed.
    """

    interval: float = _INTERVAL
    run: tuple[float, float] = _RUN
    lag: tuple[float, float] = _LAG
    failed: float = _FAILED
    finished: int = 0
    runs: tuple[tuple[datetime, datetime], ...] = Field(default=(), exclude=True)
    has_interval: bool = Field(default=False, exclude=True)

    @property
    def is_prior(self) -> bool:
        """Whether fewer than MIN_RUNS finished runs were observed, so that much of it is an assumption."""
        return self.finished < MIN_RUNS


def learn_statistics(observations: Iterable[Observation], name: str) -> JobStatistics:
    """Estimate the statistics of the job `name`; the priors where there are too few observations."""
    jobs = [seen.job for seen in _sort(observations) if isinstance(seen, FeedObservation) and seen.job.name == name]
    finished = {job.last_ended: job.status for job in jobs if job.last_ended and _is_final(job)}
    runs = tuple((start, end) for end, start in dict(_runs(jobs)).items())
    intervals = [seconds for job in jobs if (seconds := _interval(job)) is not None]
    interval = median(intervals) if intervals else _INTERVAL
    few = len(finished) < MIN_RUNS
    return JobStatistics(
        interval=interval,
        run=_quantiles([(end - start).total_seconds() for start, end in runs], _RUN, few=few),
        lag=_quantiles(list(dict(_lags(jobs, interval)).values()), _LAG, few=few),
        failed=_FAILED if few else sum(s is JobStatus.FAILED for s in finished.values()) / len(finished),
        finished=len(finished),
        runs=runs,
        has_interval=bool(intervals),
    )


def first_listed(observations: Iterable[Observation], tag: str) -> datetime | None:
    """Return the earliest time at which an upstream was seen to list the tag; None if never."""
    return min(
        (seen.at for seen in observations if isinstance(seen, ListingObservation) and seen.tag == tag), default=None
    )


def tag_observations(observations: Iterable[Observation], tag: str) -> tuple[TagObservation, ...]:
    """Return the checks of the tag, oldest first."""
    return tuple(seen for seen in _sort(observations) if isinstance(seen, TagObservation) and seen.tag == tag)


def new_observations(known: Sequence[Observation], seen: Iterable[Observation]) -> list[Observation]:
    """Return those of `seen` that differ from the latest known observation of the same job or tag."""
    last = {_subject(before): _without_time(before) for before in known}
    return [now for now in seen if last.get(_subject(now)) != _without_time(now)]


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest of the values that a `share` (0 to 1) of them does not exceed. `values` is not empty."""
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1]


def _subject(seen: Observation) -> tuple[str, ...]:
    return (seen.kind, seen.job.name) if isinstance(seen, FeedObservation) else (seen.kind, seen.repository, seen.tag)


def _without_time(seen: Observation) -> Observation:
    return seen.model_copy(update={"at": None})


def _sort(observations: Iterable[Observation]) -> list[Observation]:
    return sorted(observations, key=lambda seen: seen.at)


def _is_final(job: Job) -> bool:
    """Whether a run has ended. A failed run without a next run is retried at once and has not ended."""
    return job.status is JobStatus.SUCCESS or (job.status is JobStatus.FAILED and job.next_schedule is not None)


def _interval(job: Job) -> float | None:
    """Return next run minus last end: tunasync schedules a run at the last end plus the interval (runSchedule)."""
    if not _is_final(job) or job.next_schedule is None or job.last_ended is None:
        return None
    seconds = (job.next_schedule - job.last_ended).total_seconds()
    return seconds if 0 < seconds <= _MAX_INTERVAL else None


def _runs(jobs: Iterable[Job]) -> Iterator[tuple[datetime, datetime]]:
    """Yield end and start of each successful run; mirrorz gives the start only during the run."""
    started = None
    for job in jobs:
        started = job.last_started or started
        if job.status is JobStatus.SUCCESS and job.last_ended and started and started < job.last_ended:
            yield job.last_ended, started


def _lags(jobs: Sequence[Job], interval: float) -> Iterator[tuple[datetime, float]]:
    """Yield each scheduled time and the delay until the start. A longer gap would hide runs that were not observed."""
    for before, after in pairwise(jobs):
        if before.next_schedule is None or after.last_started is None:
            continue
        seconds = (after.last_started - before.next_schedule).total_seconds()
        if 0 <= seconds < interval:
            yield before.next_schedule, seconds


def _quantiles(values: Sequence[float], prior: tuple[float, float], *, few: bool) -> tuple[float, float]:
    if not values:
        return prior
    middle = median(values)
    return (middle, max(prior[1], _WIDER * middle)) if few else (middle, quantile(values, 0.9))
