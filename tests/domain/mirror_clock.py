"""A mirror that syncs as tunasync does, without waiting for it: the next run is due one interval after the last ended.

A due run waits for a free place, takes its time, and may fail and be tried again at once. What a run brings is what was
there when it began.
"""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from provisioner.domain.forecast.feed import Job, JobStatus

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = 3600.0


class Habits(NamedTuple):
    """Seconds, and shares between 0 and 1. `retries` follow a failed attempt at once, as tunasync's default of 2."""

    interval: float = 12 * HOUR
    run: float = 40 * 60
    spread: float = 0.35
    queue: float = 8 * 60
    fails: float = 0.05
    retries: int = 2


class Run(NamedTuple):
    due: float
    began: float
    ended: float
    listed: float  # when the attempt began that ended well
    well: bool


def runs(habits: Habits, seed: int, until: float) -> list[Run]:
    chance, made, due = random.Random(seed), list[Run](), 0.0
    while due < until:
        began = due + chance.expovariate(1 / habits.queue)
        made.append(_attempts(habits, chance, due, began))
        due = made[-1].ended + habits.interval
    return made


def _attempts(habits: Habits, chance: random.Random, due: float, began: float) -> Run:
    at = began
    for _ in range(habits.retries + 1):
        listed, took = at, habits.run * chance.lognormvariate(0, habits.spread)
        at += took
        if chance.random() >= habits.fails:
            return Run(due, began, at, listed, well=True)
    return Run(due, began, at, at, well=False)


def complete_at(made: list[Run], released: float) -> float:
    """When the first run has ended that began after the release and ended well."""
    return next(run.ended for run in made if run.well and run.listed > released)


def feed_at(made: list[Run], now: float) -> Job:
    """What the mirror's manager would say at that moment."""
    past = [run for run in made if run.ended <= now]
    here = next((run for run in made if run.began <= now < run.ended), None)
    upcoming = next(run for run in made if run.ended > now)
    good = next((run for run in reversed(past) if run.well), None)
    latest = past[-1] if past else None
    status = JobStatus.SYNCING if here else JobStatus.NONE if latest is None else _ended(latest)
    began = here or latest
    return Job(
        name="images",
        status=status,
        last_success=moment(good.ended) if good else None,
        last_started=moment(began.began) if began else None,
        last_ended=moment(latest.ended) if latest else None,
        next_schedule=None if here else moment(upcoming.due),
    )


def _ended(run: Run) -> JobStatus:
    return JobStatus.SUCCESS if run.well else JobStatus.FAILED


def polls(made: list[Run], first: float, last: float, every: float = 30 * 60) -> Iterator[tuple[float, Job]]:
    at = first
    while at < last:
        yield at, feed_at(made, at)
        at += every


def moment(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def by_the_clock(now: float) -> float:
    """The rule of thumb that is told about such mirrors: synced at 00:00 and at 12:00."""
    return (now // (12 * HOUR) + 1) * 12 * HOUR
