"""Feeds in which mirrors publish the state of their syncs, read from the two common formats into one value.

tunasync: the array that its manager serves at /jobs (tuna/tunasync, internal/status_web.go). mirrorz: version 1.7, as
mirrorz-org/mirrorz documents it. Both are read tolerantly: an invalid field counts as unknown and is not an error.
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
    """The status of a sync job, in tunasync's words and those of mirrorz that it lacks."""

    NONE = "none"  # has never run
    SUCCESS = "success"
    FAILED = "failed"
    SYNCING = "syncing"
    PRE_SYNCING = "pre-syncing"
    PAUSED = "paused"
    DISABLED = "disabled"
    PENDING = "pending"
    CACHE = "cache"  # a reverse proxy that keeps what it fetched: it has no schedule
    PROXY = "proxy"  # a reverse proxy that keeps nothing
    UNKNOWN = "unknown"


class Job(Value):
    """One sync job. `last_success` is the end of a successful run, `last_ended` of any run.

    `next_schedule` is when the job is due; it may then queue before it runs. None while it runs or waits for a retry.
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
        """Whether a run is in progress. A failed job without a next run is being retried (tunasync's worker/job.go)."""
        retrying = self.status is JobStatus.FAILED and self.next_schedule is None and self.last_ended is not None
        return retrying or (self.status in _RUNNING and self.last_started is not None)

    @property
    def is_on_demand(self) -> bool:
        """Whether the job is a reverse proxy and has no schedule."""
        return self.status in (JobStatus.CACHE, JobStatus.PROXY)


class FeedReading(Value):
    """A feed at the time of the request. `job` None: it could not be read or has no such job; see `problems`."""

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
_PART = re.compile(r"([A-Z])([0-9]*)")
_MAX_DIGITS = 12  # of Unix seconds up to the year 9999
_MAX_TEXT = 1000  # characters of a name, an upstream or a size
_MAX_JOBS = 20_000
_LAST_SECOND = 253_402_300_799  # of the year 9999, the last one of datetime


def read_feed(raw: bytes, form: FeedFormat) -> dict[str, Job]:
    """Parse the jobs of a feed, by name. Raises ValueError with the reason if `raw` is not such a feed."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    rows = document.get("mirrors") if form == "mirrorz" and isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise ValueError(f"it is not in the format {form}")  # noqa: TRY004  (text from outside, not an argument)
    if len(rows) > _MAX_JOBS:
        raise ValueError(f"it lists more than {_MAX_JOBS} jobs")
    read = _mirrorz_job if form == "mirrorz" else _tunasync_job
    return _latest(job for row in rows if isinstance(row, dict) and (job := read(row)) is not None)


def _latest(jobs: Iterable[Job]) -> dict[str, Job]:
    """Keep the entry with the latest success: a manager lists a job once for each worker that has it."""
    never, kept = datetime.min.replace(tzinfo=UTC), dict[str, Job]()
    for job in jobs:
        before = kept.get(job.name)
        if before is None or (job.last_success or never) > (before.last_success or never):
            kept[job.name] = job
    return kept


def _tunasync_job(row: Mapping[str, Any]) -> Job | None:
    """Read only the `_ts` fields: the text fields beside them are in the manager's own time zone."""
    name = row.get("name")
    if not isinstance(name, str) or len(name) > _MAX_TEXT:
        return None
    return Job(
        name=name,
        status=_TUNASYNC.get(_text(row.get("status")), JobStatus.UNKNOWN),
        last_success=_time(row.get("last_update_ts")),
        last_started=_time(row.get("last_started_ts")),
        last_ended=_time(row.get("last_ended_ts")),
        next_schedule=_time(row.get("next_schedule_ts")),
        upstream=_text(row.get("upstream")),
        size=_text(row.get("size")),
    )


def _mirrorz_job(row: Mapping[str, Any]) -> Job | None:
    name = row.get("cname")
    if not isinstance(name, str) or len(name) > _MAX_TEXT:
        return None
    parts = dict(_parts(_text(row.get("status"))))
    main = next((letter for letter in parts if letter in _MIRRORZ), "U")
    status, earlier = _MIRRORZ[main], parts.get("O")
    return Job(
        name=name,
        status=JobStatus.DISABLED if row.get("disable") is True else status,
        last_success=parts[main] if main in "SP" and main in parts else earlier,
        last_started=parts.get("Y"),
        last_ended=parts.get(main) if main in "SF" else None,
        next_schedule=parts.get("X"),
        upstream=_text(row.get("upstream")),
        size=_text(row.get("size")),
    )


def _parts(status: str) -> Iterator[tuple[str, datetime | None]]:
    """Split S1600000000X1600043200 into letters, each with its time or None."""
    for letter, seconds in _PART.findall(status):
        yield letter, _time(int(seconds)) if 0 < len(seconds) <= _MAX_DIGITS else None


def _time(seconds: object) -> datetime | None:
    """Convert Unix seconds. None for Go's zero time (-62135596800) and for everything that is not a time."""
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 0 < seconds <= _LAST_SECOND:
        return None
    return datetime.fromtimestamp(seconds, UTC)


def _text(value: object) -> str:
    return value[:_MAX_TEXT] if isinstance(value, str) else ""
