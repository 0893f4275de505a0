"""Feeds in which mirrors publish the state of their syncs, read from five formats into one value.

All are read tolerantly: an invalid field counts as unknown and is not an error. Sources: tuna/tunasync
internal/status_web.go (`GET /jobs`); mirrorz-org/mirrorz, data format 1.7; ustclug/Yuki pkg/api/types.go
(`GET /api/v1/metas`); sjtug/lug pkg/manager/json_rest.go (`GET /lug/v1/manager/summary`); ZJUSCT/MirrorsDotNet
Orchestrator/Controllers/Mirrors.cs (`GET /api/mirrors`).
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, get_args

from provisioner.domain.forecast.feed import Job, JobStatus
from provisioner.domain.forecast.feed_time import next_time, past_time
from provisioner.domain.values.feed_format import FeedFormat

Row = Mapping[str, Any]

_TUNASYNC = {status.value: status for status in JobStatus} | {"fail": JobStatus.FAILED, "cached": JobStatus.CACHE}
_ZJU = {"succeeded": JobStatus.SUCCESS} | _TUNASYNC
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
_MAX_INTEGER = 20  # characters of an integer in JSON; Python refuses a document with very long ones
_MAX_TEXT = 1000  # characters of a name, an upstream or a size
_MAX_JOBS = 20_000


def read_feed(raw: bytes, form: FeedFormat, at: datetime) -> dict[str, Job]:
    """Parse the jobs of a feed, by name. `at`: when the feed was received; no past time is later.

    Raises ValueError with the reason if `raw` is not such a feed; one of another format that is known is named.
    """
    document = _load(raw)
    found = _formats_of(document)
    rows = _FORMATS[form].rows(document)
    if rows is None or (found and form not in found):
        raise ValueError(f"it is not in the format {form}: {_other_format(found)}")
    if len(rows) > _MAX_JOBS:
        raise ValueError(f"it lists more than {_MAX_JOBS} jobs")
    read = _FORMATS[form].read
    return _latest(job for row in rows if isinstance(row, dict) and (job := read(row, at)) is not None)


def _load(raw: bytes) -> Any:
    try:
        return json.loads(raw, parse_int=_integer, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        page = " but a web page" if raw.lstrip()[:1] == b"<" else ""
        raise ValueError(f"it is not JSON{page}") from None


def _integer(text: str) -> int | None:
    return int(text) if len(text) <= _MAX_INTEGER else None


def _formats_of(document: object) -> list[FeedFormat]:
    """Return the formats whose marks the document has: usually one, and none if its jobs have only names."""
    forms: tuple[FeedFormat, ...] = get_args(FeedFormat)
    return [form for form in forms if _has_marks(_FORMATS[form], document)]


def _has_marks(form: "_Format", document: object) -> bool:
    rows = form.rows(document)
    return rows is not None and (
        not form.marks or any(isinstance(row, dict) and form.marks & row.keys() for row in rows)
    )


def _other_format(found: Iterable[FeedFormat]) -> str:
    for form in found:
        return f"it is in the format {form}, so mirror.feed.format must be {form}"
    return f"nor is it in another one that is read ({', '.join(get_args(FeedFormat))})"


def _latest(jobs: Iterable[Job]) -> dict[str, Job]:
    """Keep the entry with the latest success: a manager lists a job once for each worker that has it."""
    never, kept = datetime.min.replace(tzinfo=UTC), dict[str, Job]()
    for job in jobs:
        before = kept.get(job.name)
        if before is None or (job.last_success or never) > (before.last_success or never):
            kept[job.name] = job
    return kept


def _tunasync_job(row: Row, at: datetime) -> Job | None:
    """Read the `_ts` fields, and the text beside one that is missing: it has the manager's time zone in it."""
    last_ended = past_time(_first(row, "last_ended_ts", "last_ended"), at)
    next_schedule = next_time(_first(row, "next_schedule_ts", "next_schedule"), at)
    status = _TUNASYNC.get(_text(row.get("status")), JobStatus.UNKNOWN)
    return _job(
        row,
        row.get("name"),
        status=status,
        last_success=past_time(_first(row, "last_update_ts", "last_update"), at),
        last_started=past_time(_first(row, "last_started_ts", "last_started"), at),
        last_ended=last_ended,
        next_schedule=next_schedule,
        # tunasync's worker/job.go: it has no next run until the last attempt has failed
        is_retrying=status is JobStatus.FAILED and next_schedule is None and last_ended is not None,
    )


def _mirrorz_job(row: Row, at: datetime) -> Job | None:
    parts = dict(_parts(_text(row.get("status"))))
    main = next((letter for letter in parts if letter in _MIRRORZ), "U")
    earlier, time = past_time(parts.get("O"), at), past_time(parts.get(main), at)
    # SJTU and ZJU write the last success behind every letter, so what follows Y is a start only after an older success.
    is_own = time is not None and (earlier < time if earlier is not None else main != "Y")
    return _job(
        row,
        row.get("cname"),
        status=JobStatus.DISABLED if row.get("disable") is True else _MIRRORZ[main],
        last_success=time if main in "SP" and time is not None else earlier,
        last_started=time if main == "Y" and is_own else None,
        last_ended=time if main in "SF" and is_own else None,
        next_schedule=next_time(parts.get("X"), at),
    )


def _yuki_job(row: Row, at: datetime) -> Job | None:
    """`prevRun` is a start. `nextRun` is negative for a job that is switched off (mirrorz-parser, ustclug-v1.js)."""
    success, started = past_time(row.get("lastSuccess"), at), past_time(row.get("prevRun"), at)
    status = _yuki_status(row, has_run=success is not None or started is not None)
    return _job(
        row,
        row.get("name"),
        status=status,
        last_success=success,
        last_started=started,
        last_ended=success if status is JobStatus.SUCCESS else None,
        next_schedule=next_time(row.get("nextRun"), at),
    )


def _yuki_status(row: Row, *, has_run: bool) -> JobStatus:
    next_run, code = row.get("nextRun"), row.get("exitCode")
    if isinstance(next_run, int | float) and next_run < 0:
        return JobStatus.PAUSED
    if row.get("syncing") is True:
        return JobStatus.SYNCING
    if not has_run:
        return JobStatus.NONE
    if isinstance(code, bool) or not isinstance(code, int):
        return JobStatus.UNKNOWN
    return JobStatus.SUCCESS if code == 0 else JobStatus.FAILED


def _lug_job(row: Row, at: datetime) -> Job | None:
    """`LastFinished` is the last success (pkg/worker/worker.go). lug publishes no start and no next run."""
    success, result = past_time(row.get("LastFinished"), at), row.get("Result")
    status = JobStatus.SUCCESS if result is True else JobStatus.FAILED if result is False else JobStatus.UNKNOWN
    status = JobStatus.SYNCING if row.get("Idle") is False else status
    ended = success if status is JobStatus.SUCCESS else None
    return _job(row, row.get("name"), status=status, last_success=success, last_ended=ended)


def _zju_job(row: Row, at: datetime) -> Job | None:
    """`lastUpdated` is the last success, and `nextScheduled` an interval after it; also in a run and after a failure.

    So they do not say when a run began, or when a failed job runs again (Orchestrator/Services/JobQueue.cs).
    """
    status = _ZJU.get(_text(row.get("status")).lower(), JobStatus.UNKNOWN)
    due = None if status in (JobStatus.SYNCING, JobStatus.FAILED) else next_time(row.get("nextScheduled"), at)
    return _job(
        row,
        row.get("id"),
        status=status,
        last_success=past_time(row.get("lastSuccess"), at),
        last_ended=None if status is JobStatus.FAILED else past_time(row.get("lastUpdated"), at),
        next_schedule=due,
    )


def _job(row: Row, name: object, **values: Any) -> Job | None:
    """Build the job. None without a name."""
    if not isinstance(name, str) or len(name) > _MAX_TEXT:
        return None
    return Job(name=_text(name), upstream=_text(row.get("upstream")), size=_text(row.get("size")), **values)


def _parts(status: str) -> Iterator[tuple[str, int | None]]:
    """Split S1600000000X1600043200 into letters, each with its seconds or None."""
    for letter, seconds in _PART.findall(status):
        yield letter, int(seconds) if 0 < len(seconds) <= _MAX_DIGITS else None


def _first(row: Row, *names: str) -> object:
    """Return the first field that is there and is not null."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def _text(value: object) -> str:
    """Return a text that can be written as UTF-8: JSON may hold halves of characters."""
    return value[:_MAX_TEXT].encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _array(document: object) -> list[Any] | None:
    return document if isinstance(document, list) else None


def _mirrorz_rows(document: object) -> list[Any] | None:
    return _array(document.get("mirrors")) if isinstance(document, dict) else None


def _lug_rows(document: object) -> list[Any] | None:
    workers = document.get("WorkerStatus") if isinstance(document, dict) else None
    if not isinstance(workers, dict):
        return None
    return [row | {"name": name} for name, row in workers.items() if isinstance(row, dict)]


class _Format(NamedTuple):
    """How the jobs are listed and read. `marks`: fields of a job that only this of the formats with arrays has."""

    rows: Callable[[object], list[Any] | None]
    read: Callable[[Row, datetime], Job | None]
    marks: frozenset[str] = frozenset()


_TUNASYNC_MARKS = frozenset({"last_update_ts", "last_update", "last_ended_ts", "next_schedule_ts", "is_master"})
_FORMATS: Mapping[FeedFormat, _Format] = {
    "tunasync": _Format(_array, _tunasync_job, _TUNASYNC_MARKS),
    "mirrorz": _Format(_mirrorz_rows, _mirrorz_job),
    "yuki": _Format(_array, _yuki_job, frozenset({"exitCode", "prevRun", "nextRun"})),
    "lug": _Format(_lug_rows, _lug_job),
    "zju": _Format(_array, _zju_job, frozenset({"lastUpdated", "nextScheduled"})),
}
