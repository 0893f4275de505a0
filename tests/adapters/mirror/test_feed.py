"""A feed asked over the loopback: what is sent, how often, and what becomes of faults."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from provisioner.adapters.mirror.feed import read_job
from provisioner.adapters.registry.transport import Patience
from provisioner.adapters.state.files import cache_home
from provisioner.domain.forecast.feed import FeedReading
from tests.adapters.registry.scripted_registry import Answer, Asked, ScriptedRegistry, served

NOW = datetime(2026, 9, 19, 12, tzinfo=UTC)
BODY = b'[{"name": "images", "status": "success", "last_update_ts": 1789760213}]'
HASTY = Patience(connect=2, read=5, whole=10, attempts=1)

Serve = Callable[..., ScriptedRegistry]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(*answers: Answer) -> ScriptedRegistry:
            left = iter(answers)
            return stack.enter_context(served(ScriptedRegistry(lambda _: next(left))))

        yield start


def read(host: str, minutes: float = 0, job: str = "images") -> FeedReading:
    return read_job(f"http://{host}/jobs", job, "tunasync", NOW + timedelta(minutes=minutes), patience=HASTY)


def test_not_asked_twice_in_ten_minutes_and_then_only_for_changes(serve: Serve) -> None:
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


def test_a_feed_that_fails_keeps_its_last_word_for_a_day_and_is_asked_no_more_often(serve: Serve) -> None:
    feed = serve(Answer(200, {}, BODY), Answer(503), Answer(404), Answer(404))
    read(feed.host)
    failing, soon, gone, old = (read(feed.host, minutes) for minutes in (10, 19, 20, 60 * 25))
    for reading in (failing, soon, gone):
        assert reading.job is not None
        assert reading.fetched_at == NOW
        assert [problem.code for problem in reading.problems] == ["feed_unreadable"]
    assert old.job is None
    assert len(feed.asked) == 4


def test_a_feed_that_never_answered(serve: Serve) -> None:
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


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (b"<html>", "feed_unreadable", "it is not JSON"),
        (b'{"mirrors": []}', "feed_unreadable", "it is not in the format tunasync"),
        (BODY, "no_such_job", "one of: images"),
        (b"[]", "no_such_job", "one of: "),
    ],
)
def test_what_is_wrong_with_a_feed(serve: Serve, body: bytes, code: str, said: str) -> None:
    reading = read(serve(Answer(200, {}, body)).host, job="image")
    (problem,) = reading.problems
    assert reading.job is None
    assert problem.code == code
    assert said in problem.what + problem.fix


def test_a_spoilt_copy_is_asked_for_anew(serve: Serve) -> None:
    feed = serve(Answer(200, {}, BODY), Answer(200, {}, BODY))
    read(feed.host)
    (copy,) = (cache_home() / "feeds").iterdir()
    copy.write_text("{")
    assert read(feed.host).job is not None
    assert len(feed.asked) == 2


def test_a_feed_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "jobs.json"
    missing = read_job(str(path), "images", "tunasync", NOW)
    assert "No such file" in missing.problems[0].what
    path.write_bytes(BODY)
    reading = read_job(str(path), "images", "tunasync", NOW)
    assert reading.job is not None
    assert reading.fetched_at == NOW


def test_nothing_secret_is_in_the_question(serve: Serve) -> None:
    feed = serve(Answer(200, {}, BODY))
    read(feed.host)
    asked: Asked = feed.asked[0]
    assert {name.lower() for name in asked.headers} <= {"host", "user-agent", "accept-encoding"}
