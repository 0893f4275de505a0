"""A mirror's feed, asked politely: one GET, not twice in ten minutes, and only for what has changed since."""

import difflib
import hashlib
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path

from pydantic import ValidationError

from provisioner.adapters.mirror.fetch import Fetcher
from provisioner.adapters.registry.http import Refused
from provisioner.adapters.registry.transport import Patience
from provisioner.adapters.state.files import cache_home, write_text
from provisioner.domain.forecast.feed import FeedReading, Job, read_feed
from provisioner.domain.values.feed_format import FeedFormat
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem

POLITE = timedelta(minutes=10)
_LIMIT = 16 << 20
_GONE_OLD = timedelta(days=1)  # after which a copy says nothing of the next run


class Kept(Value):
    """The last answer of a feed. `asked_at` is of the last try, whether or not it was answered."""

    asked_at: datetime
    fetched_at: datetime | None = None
    etag: str = ""
    last_modified: str = ""
    body: str = ""
    trouble: str = ""


def read_job(  # noqa: PLR0913
    url: str, job: str, form: FeedFormat, now: datetime, *, ca: Path | None = None, patience: Patience | None = None
) -> FeedReading:
    """Never raises for a fault of the feed: that stands in the reading. `url` is http(s) or the path of a file."""
    if not url.startswith(("http://", "https://")):
        return _from_file(Path(url), job, form, now)
    place = cache_home() / "feeds" / f"{hashlib.sha256(url.encode()).hexdigest()[:20]}.json"
    kept = _kept(place)
    if kept is None or not timedelta(0) <= now - kept.asked_at < POLITE:
        with Fetcher(ca=ca, patience=patience) as fetcher:
            kept = _asked(fetcher, url, kept, now)
        write_text(place, kept.model_dump_json() + "\n")
    return _reading(url, job, form, kept)


def _asked(fetcher: Fetcher, url: str, before: Kept | None, now: datetime) -> Kept:
    known = before if before is not None and before.fetched_at is not None else Kept(asked_at=now)
    given = {"If-None-Match": known.etag, "If-Modified-Since": known.last_modified}
    try:
        reply = fetcher.get(url, _LIMIT + 1, {name: value for name, value in given.items() if value})
    except Refused as refused:
        return known.model_copy(update={"asked_at": now, "trouble": refused.fault.problem.what})
    if reply.status == HTTPStatus.NOT_MODIFIED and known.fetched_at is not None:
        return known.model_copy(update={"asked_at": now, "fetched_at": now, "trouble": ""})
    if reply.status != HTTPStatus.OK or len(reply.received) > _LIMIT:
        trouble = f"it answers HTTP {reply.status}" if reply.status != HTTPStatus.OK else "it is longer than 16 MiB"
        return known.model_copy(update={"asked_at": now, "trouble": trouble})
    return Kept(
        asked_at=now,
        fetched_at=now,
        etag=reply.headers.get("ETag", ""),
        last_modified=reply.headers.get("Last-Modified", ""),
        body=reply.received.decode("utf-8", "replace"),
    )


def _reading(url: str, job: str, form: FeedFormat, kept: Kept) -> FeedReading:
    problems = [_unreadable(url, kept.trouble)] if kept.trouble else []
    if kept.fetched_at is None or kept.asked_at - kept.fetched_at > _GONE_OLD:
        return FeedReading(url=url, wanted=job, fetched_at=kept.fetched_at, problems=tuple(problems))
    read = _parsed(url, job, form, kept.body.encode(), kept.fetched_at)
    return read.model_copy(update={"problems": (*problems, *read.problems)})


def _from_file(path: Path, job: str, form: FeedFormat, now: datetime) -> FeedReading:
    try:
        raw = path.read_bytes()[: _LIMIT + 1]
    except OSError as error:
        return FeedReading(url=str(path), wanted=job, problems=(_unreadable(str(path), error.strerror or str(error)),))
    return _parsed(str(path), job, form, raw, now)


def _parsed(url: str, job: str, form: FeedFormat, raw: bytes, at: datetime) -> FeedReading:
    try:
        jobs = read_feed(raw, form)
    except ValueError as error:
        return FeedReading(url=url, wanted=job, fetched_at=at, problems=(_unreadable(url, str(error)),))
    found = jobs.get(job)
    problems = () if found is not None else (_no_job(url, job, jobs),)
    return FeedReading(url=url, wanted=job, fetched_at=at, job=found, problems=problems)


def _kept(place: Path) -> Kept | None:
    """A copy that cannot be read is none: it is only a copy."""
    try:
        return Kept.model_validate_json(place.read_bytes())
    except (OSError, ValidationError):
        return None


def _unreadable(url: str, reason: str) -> Problem:
    return Problem(
        "feed_unreadable",
        f"the feed {url} says nothing: {reason}",
        "without it nobody knows when the mirror syncs next; what it has now is looked at all the same",
        "check mirror.feed in lab.yml; open the address in a browser",
    )


def _no_job(url: str, job: str, jobs: dict[str, Job]) -> Problem:
    near = difflib.get_close_matches(job, jobs, n=3) or sorted(jobs)[:10]
    return Problem(
        "no_such_job",
        f"the feed {url} has no job {job}",
        "its jobs are named as its keeper likes, not as the path or the image",
        f"mirror.feed.job in lab.yml is one of: {', '.join(near)}",
    )
