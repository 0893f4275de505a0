"""The time at which the next sync that can bring a release will be complete.

A tunasync job is due one interval after its last run ended, so its hour drifts; it is not at 00:00 and 12:00
(worker/worker.go, runSchedule). A due job may queue for a free worker (tuna/issues#1946). A run lists its files at
its start, so a run that began before the release does not count.
"""

import math
from datetime import datetime, timedelta

from provisioner.domain.forecast.feed import Job
from provisioner.domain.forecast.history import JobStatistics
from provisioner.domain.values.model import Value

STALL_CYCLES = 3  # cycles without a success, after which a job counts as stalled


class ExpectedCompletion(Value):
    """Times by which a sync is complete with a probability of 50 and 90 per cent."""

    p50: datetime
    p90: datetime


def next_complete(job: Job, learned: JobStatistics, released: datetime, now: datetime) -> ExpectedCompletion:
    """Estimate when the tag is on the mirror; never in the past. `released`: a time by which the upstream had it.

    The job has a usable time (`undated_because`).
    """
    begins = job.running_since
    if begins is not None:
        ends = _ends_of_run(begins, learned, now)
        if released >= begins:
            ends = tuple(_end_of_next_run(learned, end, part) for part, end in enumerate(ends))
    else:
        ends = tuple(_end_of_due_run(_due(job, learned, now), learned, now, part) for part in (0, 1))
    p50, p90 = (end + _retry_time(learned, part) for part, end in enumerate(ends))
    return ExpectedCompletion(p50=max(p50, now), p90=max(p90, p50, now))


def undated_because(job: Job, learned: JobStatistics, now: datetime) -> str | None:
    """Return what the feed lacks for an estimate of the next end of a run; None if it lacks nothing.

    Without it the estimate would be the length of a run from now on, whatever the time.
    """
    name = f"its feed gives the job {job.name} the status {job.status.value}"
    due = job.running_since or job.next_schedule
    if due is None and job.last_ended is not None and learned.has_interval:
        due = _due(job, learned, now)
    if due is not None:
        long_past = (now - due).total_seconds() > _stall_limit(learned)
        return f"{name}, and what is newest of its times is {due:%Y-%m-%d %H:%M} UTC, long past" if long_past else None
    if job.last_success is None and job.last_ended is None:
        return f"{name}, without a usable time: neither of its last run nor of its next one"
    return f"{name}, without the time of its next run; and no interval of its runs was seen before"


def stalled_since(job: Job, learned: JobStatistics, now: datetime) -> datetime | None:
    """Return the time of the last success if it is older than STALL_CYCLES cycles, else None.

    A cycle is an interval and a run: a job with an interval of an hour may run for five.
    """
    if job.last_success is None:
        return None
    return job.last_success if (now - job.last_success).total_seconds() > _stall_limit(learned) else None


def count_missed_runs(learned: JobStatistics, released: datetime) -> int:
    """Count the successful runs that began after the release, and so did not bring the tag."""
    return sum(start > released for start, _ in learned.runs)


def _stall_limit(learned: JobStatistics) -> float:
    return STALL_CYCLES * (learned.interval + learned.run[0])


def _due(job: Job, learned: JobStatistics, now: datetime) -> datetime:
    if job.next_schedule is not None:
        return job.next_schedule
    return now if job.last_ended is None else job.last_ended + timedelta(seconds=learned.interval)


def _ends_of_run(begins: datetime, learned: JobStatistics, now: datetime) -> tuple[datetime, ...]:
    """Return the expected (p50, p90) end of a run in progress. An overdue run gets the usual spread from now."""
    p50, p90 = learned.run
    at_latest = max(begins + timedelta(seconds=p90), now + timedelta(seconds=p90 - p50))
    return max(begins + timedelta(seconds=p50), now), at_latest


def _end_of_due_run(due: datetime, learned: JobStatistics, now: datetime, part: int) -> datetime:
    """Return the end of the run that is due. `part`: 0 for p50, 1 for p90. A due job that has not begun is queued."""
    spread = timedelta(seconds=learned.lag[part] - learned.lag[0])
    begins = max(due + timedelta(seconds=learned.lag[part]), now + spread)
    return begins + timedelta(seconds=learned.run[part])


def _end_of_next_run(learned: JobStatistics, end: datetime, part: int) -> datetime:
    return end + timedelta(seconds=learned.interval + learned.lag[part] + learned.run[part])


def _retry_time(learned: JobStatistics, part: int) -> timedelta:
    """Return the time for the expected number of failed runs in a row, plus a cycle for p90 of a prior."""
    chance = (0.5, 0.1)[part]
    share = min(learned.failed, 0.9)
    failures = 0 if share <= chance else math.ceil(math.log(chance) / math.log(share)) - 1
    if part and learned.is_prior:
        failures += 1
    return timedelta(seconds=failures * (learned.interval + learned.lag[0] + learned.run[0]))
