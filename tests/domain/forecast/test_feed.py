from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.forecast.feed import Job, read_feed
from provisioner.domain.values.feed_format import FeedFormat
from tests.domain.group import cases

FEEDS = Path(__file__).parents[1] / "feeds"
TIMES = ("last_success", "last_started", "last_ended", "next_schedule")


def _told(job: Job) -> dict[str, Any]:
    moments = {name: getattr(job, name) for name in TIMES}
    seconds = {name: int(at.timestamp()) for name, at in moments.items() if isinstance(at, datetime)}
    return {"status": job.status.value, "running": job.is_running} | seconds


@pytest.mark.parametrize("form", ["tunasync", "mirrorz"])
def test_a_recorded_feed(form: FeedFormat) -> None:
    jobs = read_feed((FEEDS / f"{form}.json").read_bytes(), form)
    assert {name: _told(job) for name, job in jobs.items()} == cases("feeds")[form]


@pytest.mark.parametrize("form", ["tunasync", "mirrorz"])
@pytest.mark.parametrize("raw", [b"", b"<!DOCTYPE html>", b'"success"', b'{"jobs": []}', b"\xff\xfe"])
def test_what_is_no_feed_says_so(form: FeedFormat, raw: bytes) -> None:
    with pytest.raises(ValueError, match="it is not"):
        read_feed(raw, form)


@given(st.from_regex(r"\A([A-Z]\d{0,12}){0,6}\Z"))
def test_any_status_of_mirrorz_is_read(status: str) -> None:
    jobs = read_feed(b'{"mirrors": [{"cname": "x", "status": "%s"}]}' % status.encode(), "mirrorz")
    assert jobs["x"].status.value in {"success", "syncing", "failed", "paused", "cache", "proxy", "unknown", "pending"}
