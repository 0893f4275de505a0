"""When the next sync that can bring a release will be complete.

A tunasync job is due one interval after its last run ended, so its hour drifts; it is not at 00:00 and 12:00
(worker/worker.go, runSchedule). A due job may queue for a free place (tuna/issues#1946). What a run brings was listed
when it began, so one that began before the release does not count.
"""

import math
from datetime import datetime, timedelta

from provisioner.domain.forecast.feed import Job, JobStatus
from provisioner.domain.forecast.history import Learned
from provisioner.domain.values.model import Value

PATIENCE = 3  # cycles without a success, after which a job counts as stalled


class Expected(Value):
    """`p50`: as likely before as after. `p90`: nine of ten times before."""

    p50: datetime
    p90: datetime


def next_complete(job: Job, learned: Learned, released: datetime, now: datetime) -> Expected:
    """`released`: by when the release was there upstream. Never in the past."""
    begins = job.last_ended if job.status is JobStatus.FAILED else job.last_started
    if job.is_running and begins is not None:
        ends = _ends_of(begins, learned, now)
        if released >= begins:
            ends = tuple(_after(learned, end, part) for part, end in enumerate(ends))
    else:
        ends = tuple(_after_due(_due(job, learned, now), learned, now, part) for part in (0, 1))
    p50, p90 = (end + _repeats(learned, part) for part, end in enumerate(ends))
    return Expected(p50=max(p50, now), p90=max(p90, p50, now))


def stalled_since(job: Job, learned: Learned, now: datetime) -> datetime | None:
    """The last success, where it is so old that waiting for the next is no plan.

    Between two successes lie an interval and a run, so both count: a job with an hour's interval may run for five.
    """
    if job.last_success is None:
        return None
    patience = PATIENCE * (learned.interval + learned.run[0])
    return job.last_success if (now - job.last_success).total_seconds() > patience else None


def missed(learned: Learned, released: datetime) -> int:
    """How many successful runs began after the release."""
    return sum(start > released for start, _ in learned.runs)


def _due(job: Job, learned: Learned, now: datetime) -> datetime:
    if job.next_schedule is not None:
        return job.next_schedule
    return now if job.last_ended is None else job.last_ended + timedelta(seconds=learned.interval)


def _ends_of(begins: datetime, learned: Learned, now: datetime) -> tuple[datetime, ...]:
    """When a run under way ends. One that takes longer than usual gets the usual spread from now."""
    middle, late = learned.run
    at_latest = max(begins + timedelta(seconds=late), now + timedelta(seconds=late - middle))
    return max(begins + timedelta(seconds=middle), now), at_latest


def _after_due(due: datetime, learned: Learned, now: datetime, part: int) -> datetime:
    """`part` 0 for the median, 1 for nine of ten. A job that is due and has not begun is in the queue, not late."""
    spread = timedelta(seconds=learned.lag[part] - learned.lag[0])
    begins = max(due + timedelta(seconds=learned.lag[part]), now + spread)
    return begins + timedelta(seconds=learned.run[part])


def _after(learned: Learned, end: datetime, part: int) -> datetime:
    return end + timedelta(seconds=learned.interval + learned.lag[part] + learned.run[part])


def _repeats(learned: Learned, part: int) -> timedelta:
    """Time for as many failed runs in a row as must be reckoned with; and a cycle where little is known."""
    chance = (0.5, 0.1)[part]
    share = min(learned.failed, 0.9)
    failures = 0 if share <= chance else math.ceil(math.log(chance) / math.log(share)) - 1
    if part and learned.is_prior:
        failures += 1
    return timedelta(seconds=failures * (learned.interval + learned.lag[0] + learned.run[0]))
