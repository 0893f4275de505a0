import json
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


def _as_case(job: Job) -> dict[str, Any]:
    moments = {name: getattr(job, name) for name in TIMES}
    seconds = {name: int(at.timestamp()) for name, at in moments.items() if isinstance(at, datetime)}
    return {"status": job.status.value, "running": job.is_running} | seconds


@pytest.mark.parametrize("form", ["tunasync", "mirrorz"])
def test_recorded_feed_is_parsed(form: FeedFormat) -> None:
    jobs = read_feed((FEEDS / f"{form}.json").read_bytes(), form)
    assert {name: _as_case(job) for name, job in jobs.items()} == cases("feeds")[form]


@pytest.mark.parametrize("form", ["tunasync", "mirrorz"])
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<!DOCTYPE html>",
        b'"success"',
        b'{"jobs": []}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_other_documents_are_refused(form: FeedFormat, raw: bytes) -> None:
    with pytest.raises(ValueError, match="it is not"):
        read_feed(raw, form)


def test_a_feed_of_very_many_jobs_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 20000 jobs"):
        read_feed(b"[" + b"{}," * 30_000 + b"{}]", "tunasync")


@given(st.from_regex(r"\A([A-Z]\d{0,12}){0,6}\Z"))
def test_every_mirrorz_status_is_parsed(status: str) -> None:
    jobs = read_feed(b'{"mirrors": [{"cname": "x", "status": "%s"}]}' % status.encode(), "mirrorz")
    assert jobs["x"].status.value in {"success", "syncing", "failed", "paused", "cache", "proxy", "unknown", "pending"}


@pytest.mark.parametrize("status", ["S" + "9" * 5000, "S" * 100_000, "S٣"])
def test_a_hostile_mirrorz_status_is_parsed(status: str) -> None:
    document = json.dumps({"mirrors": [{"cname": "x", "status": status}]})
    assert read_feed(document.encode(), "mirrorz")["x"].last_success is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just(10**4000),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below, max_size=3),
)
FIELDS = [
    *("name", "cname", "status", "last_update_ts", "last_started_ts", "last_ended_ts", "next_schedule_ts"),
    *("upstream", "size", "disable"),
]


@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), VALUES) | VALUES, max_size=5))
def test_every_feed_is_read_or_refused_with_a_reason(rows: list[Any]) -> None:
    for form, document in (("tunasync", rows), ("mirrorz", {"mirrors": rows})):
        for job in read_feed(json.dumps(document).encode(), form).values():  # type: ignore[arg-type]
            job.model_dump_json()
            assert job.is_running in {True, False}
