"""What a mirror publishes of its own syncs, from either of the two formats of the field, as one value.

tunasync: the array that its manager serves at /jobs (tuna/tunasync, internal/status_web.go). mirrorz: version 1.7, as
mirrorz-org/mirrorz documents it. Both are read tolerantly: a field that is odd is unknown, never a reason to stop.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from provisioner.domain.values.feed_format import FeedFormat
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem


class JobStatus(StrEnum):
    NONE = "none"  # has never run
    SUCCESS = "success"
    FAILED = "failed"
    SYNCING = "syncing"
    PRE_SYNCING = "pre-syncing"
    PAUSED = "paused"
    DISABLED = "disabled"
    PENDING = "pending"
    CACHE = "cache"  # a reverse proxy that keeps what was asked for: it has no schedule
    PROXY = "proxy"  # a reverse proxy that keeps nothing
    UNKNOWN = "unknown"


class Job(Value):
    """One sync job. `last_success` and `last_ended` are ends of runs; `last_ended` is a failed run's too.

    `next_schedule` is when the job is due, which is not yet when it runs: it may have to queue. None while it runs, and
    while it waits for a retry.
    """

    name: str
    status: JobStatus = JobStatus.UNKNOWN
    last_success: datetime | None = None
    last_started: datetime | None = None
    last_ended: datetime | None = None
    next_schedule: datetime | None = None
    upstream: str = ""
    size: str = ""

    @property
    def is_running(self) -> bool:
        """A failed job without a next run is in its retries (tunasync's worker/job.go)."""
        retrying = self.status is JobStatus.FAILED and self.next_schedule is None and self.last_ended is not None
        return retrying or (self.status in _RUNNING and self.last_started is not None)

    @property
    def is_on_demand(self) -> bool:
        return self.status in (JobStatus.CACHE, JobStatus.PROXY)


class FeedReading(Value):
    """A feed as it was when it was asked. `job` None: it could not be read, or has no such job; see `problems`."""

    url: str
    wanted: str
    fetched_at: datetime | None = None
    job: Job | None = None
    problems: tuple[Problem, ...] = ()


_RUNNING = (JobStatus.SYNCING, JobStatus.PRE_SYNCING)
_TUNASYNC = {status.value: status for status in JobStatus} | {"fail": JobStatus.FAILED, "cached": JobStatus.CACHE}
_MIRRORZ = {
    "S": JobStatus.SUCCESS,
    "Y": JobStatus.SYNCING,
    "F": JobStatus.FAILED,
    "P": JobStatus.PAUSED,
    "C": JobStatus.CACHE,
    "R": JobStatus.PROXY,
    "U": JobStatus.UNKNOWN,
    "D": JobStatus.PENDING,
}
_PART = re.compile(r"([A-Z])(\d+)?")
_LAST_SECOND = 253_402_300_799  # of the year 9999; datetime ends there


def read_feed(raw: bytes, form: FeedFormat) -> dict[str, Job]:
    """The jobs by name. Raises ValueError, which says why, where it is not such a feed."""
    try:
        document = json.loads(raw)
    except ValueError:
        raise ValueError("it is not JSON") from None
    rows = document.get("mirrors") if form == "mirrorz" and isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise ValueError(f"it is not in the format {form}")  # noqa: TRY004  (text from outside, not an argument)
    read = _mirrorz_job if form == "mirrorz" else _tunasync_job
    return _latest(job for row in rows if isinstance(row, dict) and (job := read(row)) is not None)


def _latest(jobs: Iterable[Job]) -> dict[str, Job]:
    """A manager lists a job once for each worker that has it; the one that succeeded last is kept."""
    never, kept = datetime.min.replace(tzinfo=UTC), dict[str, Job]()
    for job in jobs:
        before = kept.get(job.name)
        if before is None or (job.last_success or never) > (before.last_success or never):
            kept[job.name] = job
    return kept


def _tunasync_job(row: Mapping[str, Any]) -> Job | None:
    """Only the `_ts` fields are read: the text beside them is in the manager's own zone."""
    name = row.get("name")
    if not isinstance(name, str):
        return None
    return Job(
        name=name,
        status=_TUNASYNC.get(str(row.get("status")), JobStatus.UNKNOWN),
        last_success=_time(row.get("last_update_ts")),
        last_started=_time(row.get("last_started_ts")),
        last_ended=_time(row.get("last_ended_ts")),
        next_schedule=_time(row.get("next_schedule_ts")),
        upstream=_text(row.get("upstream")),
        size=_text(row.get("size")),
    )


def _mirrorz_job(row: Mapping[str, Any]) -> Job | None:
    name = row.get("cname")
    if not isinstance(name, str):
        return None
    parts = dict(_parts(_text(row.get("status"))))
    main = next((letter for letter in parts if letter in _MIRRORZ), "U")
    status, old = _MIRRORZ[main], parts.get("O")
    return Job(
        name=name,
        status=JobStatus.DISABLED if row.get("disable") is True else status,
        last_success=parts[main] if main in "SP" and main in parts else old,
        last_started=parts.get("Y"),
        last_ended=parts.get(main) if main in "SF" else None,
        next_schedule=parts.get("X"),
        upstream=_text(row.get("upstream")),
        size=_text(row.get("size")),
    )


def _parts(status: str) -> Iterator[tuple[str, datetime | None]]:
    """S1600000000X1600043200: a letter, and a time where one belongs to it."""
    for letter, seconds in _PART.findall(status):
        yield letter, _time(int(seconds)) if seconds else None


def _time(seconds: object) -> datetime | None:
    """None for Go's zero time (-62135596800) and whatever else is no time."""
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 0 < seconds <= _LAST_SECOND:
        return None
    return datetime.fromtimestamp(seconds, UTC)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
