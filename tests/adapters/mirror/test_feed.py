"""A feed over loopback: what is requested, how often, and how faults are reported."""

from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.adapters.mirror.feed import read_job
from provisioner.adapters.registry.fetch import Fetcher
from provisioner.adapters.registry.http import MAX_REDIRECTS
from provisioner.adapters.registry.transport import RetryPolicy
from provisioner.adapters.state.files import cache_home
from provisioner.domain.forecast.feed import FeedReading
from provisioner.domain.forecast.history import OBSERVATION, FeedObservation
from provisioner.domain.values.feed_format import FeedFormat
from tests.adapters.registry.scripted_registry import Answer, ReceivedRequest, ScriptedRegistry, served

NOW = datetime(2026, 9, 19, 12, tzinfo=UTC)
BODY = b'[{"name": "images", "status": "success", "last_update_ts": 1789760213}]'
FAIL_FAST = RetryPolicy(connect=2, read=5, whole=10, attempts=1)

Serve = Callable[..., ScriptedRegistry]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(*answers: Answer) -> ScriptedRegistry:
            left = iter(answers)
            return stack.enter_context(served(ScriptedRegistry(lambda _: next(left))))

        yield start


def read(host: str, minutes: float = 0, job: str = "images") -> FeedReading:
    return read_job(f"http://{host}/jobs", job, "tunasync", NOW + timedelta(minutes=minutes), policy=FAIL_FAST)


def test_feed_is_requested_once_in_ten_minutes_and_then_conditionally(serve: Serve) -> None:
    feed = serve(Answer(200, {"ETag": '"a"', "Last-Modified": "Sat, 19 Sep 2026 11:00:00 GMT"}, BODY), Answer(304))
    first, soon, later = (read(feed.host, minutes) for minutes in (0, 9, 10))
    assert first.job is not None
    assert first.job == soon.job == later.job
    assert (soon.fetched_at, later.fetched_at) == (NOW, NOW + timedelta(minutes=10))
    one, two = feed.asked
    assert one.headers["User-Agent"].startswith("provisioner/")
    assert "If-None-Match" not in one.headers
    assert two.headers["If-None-Match"] == '"a"'
    assert two.headers["If-Modified-Since"] == "Sat, 19 Sep 2026 11:00:00 GMT"


def test_failing_feed_keeps_its_last_answer_for_a_day(serve: Serve) -> None:
    feed = serve(Answer(200, {}, BODY), Answer(503), Answer(404), Answer(404))
    read(feed.host)
    failing, soon, gone, old = (read(feed.host, minutes) for minutes in (10, 19, 20, 60 * 25))
    for reading in (failing, soon, gone):
        assert reading.job is not None
        assert reading.fetched_at == NOW
        assert [problem.code for problem in reading.problems] == ["feed_unreadable"]
    assert old.job is None
    assert len(feed.asked) == 4


def test_feed_without_any_answer_has_no_job(serve: Serve) -> None:
    feed = serve(Answer(404))
    reading, again = read(feed.host), read(feed.host, 1)
    assert reading == again
    assert reading.job is None
    assert "it answers HTTP 404" in reading.problems[0].what
    assert len(feed.asked) == 1


def test_redirects_are_followed_to_http_only(serve: Serve) -> None:
    feed = serve(Answer(302, {"Location": "/elsewhere"}), Answer(200, {}, BODY), Answer(301, {"Location": "file:///x"}))
    assert read(feed.host).job is not None
    assert "something that is not http" in read(feed.host, 10).problems[0].what
    assert [asked.path for asked in feed.asked] == ["/jobs", "/elsewhere", "/jobs"]


def test_endless_redirects_are_given_up(serve: Serve) -> None:
    feed = serve(*[Answer(302, {"Location": "/jobs"})] * MAX_REDIRECTS)
    assert "it redirects without end" in read(feed.host).problems[0].what
    assert len(feed.asked) == MAX_REDIRECTS


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (b"<html>", "feed_unreadable", "it is not JSON"),
        (b'{"mirrors": []}', "feed_unreadable", "it is not in the format tunasync"),
        (BODY, "no_such_job", "one of: images"),
        (b"[]", "no_such_job", "one of: "),
    ],
)
def test_unusable_feed_is_reported(serve: Serve, body: bytes, code: str, text: str) -> None:
    reading = read(serve(Answer(200, {}, body)).host, job="image")
    (problem,) = reading.problems
    assert reading.job is None
    assert problem.code == code
    assert text in problem.what + problem.fix


@pytest.mark.parametrize("damaged", ["{", '{"asked_at": "2026-09-19T12:00:00", "body": "[]"}'])
def test_damaged_cached_feed_is_requested_again(serve: Serve, damaged: str) -> None:
    feed = serve(Answer(200, {}, BODY), Answer(200, {}, BODY))
    read(feed.host)
    (copy,) = (cache_home() / "feeds").iterdir()
    copy.write_text(damaged)
    assert read(feed.host).job is not None
    assert len(feed.asked) == 2


@pytest.mark.parametrize("url", ["a\0b", "http://[", "https://[::1", "http://a]b/", "/", "http://127.0.0.1:1:1/"])
def test_an_address_that_is_none_is_a_problem(url: str) -> None:
    reading = read_job(url, "images", "tunasync", NOW, policy=FAIL_FAST)
    assert reading.job is None
    assert [problem.code for problem in reading.problems] == ["feed_unreadable"]


def test_a_file_is_read_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "jobs.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no space on the disk
    assert "it is longer than 16 MiB" in read_job(str(path), "images", "tunasync", NOW).problems[0].what


BODIES = st.binary(max_size=100) | st.from_regex(
    rb'\[\{"name": "images", "(status|last_update_ts|next_schedule_ts|upstream)": '
    rb'(null|true|-?[0-9]{1,30}(\.[0-9]+)?|NaN|\[\[\]\]|"[ -!#-Z\]-~]{0,20}"|"\\ud[89a-f][0-9a-f]{2}")\}\]',
    fullmatch=True,
)


@given(BODIES)
def test_every_body_is_a_job_or_a_problem_that_can_be_written(
    tmp_path_factory: pytest.TempPathFactory, body: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "body.json"
    path.write_bytes(body)
    for form in get_args(FeedFormat):
        reading = read_job(str(path), "images", form, NOW)
        assert (reading.job is None) == bool(reading.problems)
        reading.model_dump_json()
        if reading.job is not None:
            seen = FeedObservation(at=NOW, job=reading.job)
            assert OBSERVATION.validate_json(seen.model_dump_json()) == seen


def test_feed_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "jobs.json"
    missing = read_job(str(path), "images", "tunasync", NOW)
    assert "No such file" in missing.problems[0].what
    path.write_bytes(BODY)
    reading = read_job(str(path), "images", "tunasync", NOW)
    assert reading.job is not None
    assert reading.fetched_at == NOW


def test_feed_request_has_only_expected_headers(serve: Serve) -> None:
    feed = serve(Answer(200, {}, BODY))
    read(feed.host)
    asked: ReceivedRequest = feed.asked[0]
    assert {name.lower() for name in asked.headers} <= {"host", "user-agent", "accept-encoding"}


def test_the_login_of_a_url_is_sent_to_its_origin_alone(serve: Serve) -> None:
    other = serve(Answer(200, {}, b"x"))
    first = serve(Answer(302, {"Location": f"http://{other.host.replace('127.0.0.1', 'localhost')}/x"}))
    with Fetcher(policy=FAIL_FAST) as fetcher:
        reply = fetcher.get(f"http://ann:p%40ss@{first.host}/index/", 10)
    assert reply.received == b"x"
    assert "ann" not in reply.host
    assert [asked.headers.get("Authorization") for asked in (*first.asked, *other.asked)] == [
        f"Basic {b64encode(b'ann:p@ss').decode()}",
        None,
    ]
