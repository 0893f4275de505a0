import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.forecast.feed import Job
from provisioner.domain.forecast.feed_formats import read_feed
from provisioner.domain.values.feed_format import FeedFormat
from tests.domain.group import cases

FEEDS = Path(__file__).parents[1] / "feeds"
FORMATS: tuple[FeedFormat, ...] = get_args(FeedFormat)
AT = datetime(2026, 9, 19, 12, tzinfo=UTC)
TIMES = ("last_success", "last_started", "last_ended", "next_schedule")


def read_or_refuse(raw: bytes, form: FeedFormat) -> dict[str, Job] | str:
    """Return the jobs, or the reason why it is refused."""
    try:
        return read_feed(raw, form, AT)
    except ValueError as refused:
        return str(refused)


def _as_case(job: Job) -> dict[str, Any]:
    moments = {name: getattr(job, name) for name in TIMES}
    seconds = {name: int(at.timestamp()) for name, at in moments.items() if isinstance(at, datetime)}
    return {"status": job.status.value, "running": job.running_since is not None} | seconds


@pytest.mark.parametrize("form", FORMATS)
def test_recorded_feed_is_parsed(form: FeedFormat) -> None:
    jobs = read_feed((FEEDS / f"{form}.json").read_bytes(), form, AT)
    assert {name: _as_case(job) for name, job in jobs.items()} == cases("feeds")[form]


@pytest.mark.parametrize("form", FORMATS)
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
        read_feed(raw, form, AT)


def test_a_feed_of_very_many_jobs_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 20000 jobs"):
        read_feed(b"[" + b"{}," * 30_000 + b"{}]", "tunasync", AT)


@given(st.from_regex(r"\A([A-Z]\d{0,12}){0,6}\Z"))
def test_every_mirrorz_status_is_parsed(status: str) -> None:
    jobs = read_feed(b'{"mirrors": [{"cname": "x", "status": "%s"}]}' % status.encode(), "mirrorz", AT)
    assert jobs["x"].status.value in {"success", "syncing", "failed", "paused", "cache", "proxy", "unknown", "pending"}


@pytest.mark.parametrize("status", ["S" + "9" * 5000, "S" * 100_000, "S٣"])
def test_a_hostile_mirrorz_status_is_parsed(status: str) -> None:
    document = json.dumps({"mirrors": [{"cname": "x", "status": status}]})
    assert read_feed(document.encode(), "mirrorz", AT)["x"].last_success is None


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("other", FORMATS)
def test_a_feed_in_another_format_is_refused_by_name(form: FeedFormat, other: FeedFormat) -> None:
    raw = (FEEDS / f"{other}.json").read_bytes()
    if form == other:
        assert read_feed(raw, form, AT)
        return
    with pytest.raises(ValueError, match=f"^it is not in the format {form}: it is in the format {other}"):
        read_feed(raw, form, AT)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"  <!DOCTYPE html>", "it is not JSON but a web page"),
        (b'[{"state": "done", "id_": "x"}, {"cname": "x"}]', ""),  # of no known format, so the one given is tried
        (b'{"error": "not found"}', "nor is it in another one that is read (tunasync, mirrorz, yuki, lug, zju)"),
        (b'{"WorkerStatus": []}', "nor is it in another"),
    ],
)
def test_what_is_no_feed_is_named(raw: bytes, words: str) -> None:
    found = read_or_refuse(raw, "tunasync")
    assert words in found if words else found == {}


@pytest.mark.parametrize("text", ["\\ud800", "a\\udfffb"])
def test_half_a_character_in_a_feed_can_be_written(text: str) -> None:
    raw = f'[{{"name": "{text}", "upstream": "{text}", "size": "{text}"}}]'.encode()
    (job,) = read_feed(raw, "tunasync", AT).values()
    assert job.model_dump_json()


def test_a_very_long_number_spoils_only_its_field() -> None:
    raw = b'[{"name": "x", "last_update_ts": 1789760213, "last_ended_ts": %s}]' % (b"9" * 10_000)
    job = read_feed(raw, "tunasync", AT)["x"]
    assert (job.last_success is None, job.last_ended) == (False, None)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.just(10**4000)
    | st.sampled_from(
        [0, -1, 1789760213, "1789760213", 1789760213.5, "2026-09-18 19:36:53 +0800", "0001-01-01T00:00:00Z"]
    )
    | st.sampled_from([4102444800, "S1789760213X1789803413", "YO1", "success", "syncing", "cached", "F1789760213"]),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below, max_size=3),
)
FIELDS = [
    *("name", "cname", "id", "status", "last_update_ts", "last_started_ts", "last_ended_ts", "next_schedule_ts"),
    *("last_update", "next_schedule", "upstream", "size", "disable", "syncing", "exitCode", "lastSuccess", "prevRun"),
    *("nextRun", "lastUpdated", "nextScheduled", "Result", "LastFinished", "Idle"),
]


@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), VALUES) | VALUES, max_size=5), st.booleans())
def test_every_feed_is_read_or_refused_with_a_reason(rows: list[Any], wrapped: bool) -> None:
    workers = {str(number): row for number, row in enumerate(rows)}
    document = {"mirrors": rows, "WorkerStatus": workers} if wrapped else rows
    for form in FORMATS:
        jobs = read_or_refuse(json.dumps(document).encode(), form)
        if isinstance(jobs, str):
            assert "it is not in the format" in jobs
            continue
        for job in jobs.values():
            job.model_dump_json()
            times = [getattr(job, name) for name in TIMES if getattr(job, name) is not None]
            assert all(datetime(2000, 1, 1, tzinfo=UTC) <= moment < AT + timedelta(days=367) for moment in times)
            assert all(moment < AT + timedelta(days=2) for moment in times if moment != job.next_schedule)


@given(st.binary(max_size=200) | st.text(alphabet='[]{}",:0123456789eE+-.NaIfityl ', max_size=200).map(str.encode))
def test_every_answer_is_read_or_refused(raw: bytes) -> None:
    for form in FORMATS:
        found = read_or_refuse(raw, form)
        assert isinstance(found, dict) or found.startswith("it ")
