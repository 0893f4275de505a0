"""A mirror's feed: one GET, at most once in ten minutes, and only for what has changed since the last one."""

import difflib
from contextlib import suppress
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path

from pydantic import AwareDatetime, TypeAdapter

from provisioner.adapters.registry.fetch import Fetcher
from provisioner.adapters.registry.http import RequestFailed
from provisioner.adapters.registry.transport import RetryPolicy
from provisioner.adapters.state.json_cache import JsonCache, hashed_name
from provisioner.domain.forecast.feed import FeedReading
from provisioner.domain.forecast.feed_formats import read_feed
from provisioner.domain.values.feed_format import FeedFormat
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem, ProblemError

MIN_INTERVAL = timedelta(minutes=10)
_LIMIT = 16 << 20
_TOO_LONG = "it is longer than 16 MiB"
_CACHE_LIMIT = 6 * _LIMIT + (1 << 20)  # JSON writes a byte as six characters at most
_MAX_AGE = timedelta(days=1)  # an older copy does not show when the next run is


class CachedFeed(Value):
    """The last answer of a feed. `asked_at`: time of the last attempt, with or without an answer."""

    asked_at: AwareDatetime
    fetched_at: AwareDatetime | None = None
    etag: str = ""
    last_modified: str = ""
    body: str = ""
    trouble: str = ""


_CACHED_FEED = TypeAdapter(CachedFeed)


def read_job(  # noqa: PLR0913
    url: str, job: str, form: FeedFormat, now: datetime, *, ca: Path | None = None, policy: RetryPolicy | None = None
) -> FeedReading:
    """Return what the feed says of a job. `url` is http(s) or the path of a file.

    A fault of the feed is in the result. A cached copy that cannot be written is no fault: the feed is then asked each
    time.
    """
    if not url.startswith(("http://", "https://")):
        return _read_file(Path(url), job, form, now)
    cache = JsonCache(hashed_name("feeds", url), _CACHED_FEED, _CACHE_LIMIT)
    feed = cache.read()
    if feed is None or not timedelta(0) <= now - feed.asked_at < MIN_INTERVAL:
        with Fetcher(ca=ca, policy=policy) as fetcher:
            feed = _fetch(fetcher, url, feed, now)
        with suppress(ProblemError):
            cache.write(feed)
    return _read_cached(url, job, form, feed)


def _fetch(fetcher: Fetcher, url: str, before: CachedFeed | None, now: datetime) -> CachedFeed:
    known = before if before is not None and before.fetched_at is not None else CachedFeed(asked_at=now)
    conditions = {"If-None-Match": known.etag, "If-Modified-Since": known.last_modified}
    try:
        reply = fetcher.get(url, _LIMIT + 1, {name: value for name, value in conditions.items() if value})
    except RequestFailed as failed:
        return known.model_copy(update={"asked_at": now, "trouble": failed.fault.problem.what})
    if reply.status == HTTPStatus.NOT_MODIFIED and known.fetched_at is not None:
        return known.model_copy(update={"asked_at": now, "fetched_at": now, "trouble": ""})
    if reply.status != HTTPStatus.OK or len(reply.received) > _LIMIT:
        trouble = f"it answers HTTP {reply.status}" if reply.status != HTTPStatus.OK else _TOO_LONG
        return known.model_copy(update={"asked_at": now, "trouble": trouble})
    return CachedFeed(
        asked_at=now,
        fetched_at=now,
        etag=reply.headers.get("ETag", ""),
        last_modified=reply.headers.get("Last-Modified", ""),
        body=reply.received.decode("utf-8", "replace"),
    )


def _read_cached(url: str, job: str, form: FeedFormat, feed: CachedFeed) -> FeedReading:
    problems = [_unreadable(url, feed.trouble)] if feed.trouble else []
    if feed.fetched_at is None or feed.asked_at - feed.fetched_at > _MAX_AGE:
        return FeedReading(url=url, wanted=job, fetched_at=feed.fetched_at, problems=tuple(problems))
    reading = _parse(url, job, form, feed.body.encode(), feed.fetched_at)
    return reading.model_copy(update={"problems": (*problems, *reading.problems)})


def _read_file(path: Path, job: str, form: FeedFormat, now: datetime) -> FeedReading:
    try:
        with path.open("rb") as file:
            raw = file.read(_LIMIT + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        trouble = getattr(error, "strerror", None) or str(error)
        return FeedReading(url=str(path), wanted=job, problems=(_unreadable(str(path), trouble),))
    if len(raw) > _LIMIT:
        return FeedReading(url=str(path), wanted=job, problems=(_unreadable(str(path), _TOO_LONG),))
    return _parse(str(path), job, form, raw, now)


def _parse(url: str, job: str, form: FeedFormat, raw: bytes, at: datetime) -> FeedReading:
    try:
        jobs = read_feed(raw, form, at)
    except ValueError as error:
        return FeedReading(url=url, wanted=job, fetched_at=at, problems=(_unreadable(url, str(error)),))
    if job in jobs:
        return FeedReading(url=url, wanted=job, fetched_at=at, job=jobs[job])
    similar = difflib.get_close_matches(job, jobs, n=3) or sorted(jobs)[:10]
    problem = Problem(
        "no_such_job",
        f"the feed {url} has no job {job}",
        "the mirror's admin names its jobs, and the name need not be that of the path or the image",
        f"set mirror.feed.job in lab.yml to one of: {', '.join(similar)}",
    )
    return FeedReading(url=url, wanted=job, fetched_at=at, problems=(problem,))


def _unreadable(url: str, reason: str) -> Problem:
    return Problem(
        "feed_unreadable",
        f"the feed {url} cannot be read: {reason}",
        "the time of the mirror's next sync is unknown without it; the images on the mirror are checked all the same",
        "check mirror.feed in lab.yml; open the address in a browser",
    )
