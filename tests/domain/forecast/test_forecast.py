from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from provisioner.domain.forecast.feed import Job
from provisioner.domain.forecast.forecast import Question, forecast
from provisioner.domain.forecast.history import (
    FeedSeen,
    Learned,
    ListedSeen,
    Sighting,
    TagSeen,
    first_listed,
    looks_at,
    news,
)
from provisioner.domain.values.sync import SyncState
from tests.domain.group import cases

NOW = datetime(2026, 9, 19, 12, tzinfo=UTC)
TAG = "2.15.0-cuda13.0-cudnn9-runtime"


def at(hours: float) -> datetime:
    return NOW + timedelta(hours=hours)


def a_question(case: dict[str, Any]) -> Question:
    job = case.get("job")
    times = {name: at(hours) for name, hours in (job or {}).items() if name != "status"}
    learned = Learned(
        interval=12 * 3600,
        run=(3600, 7200),
        lag=(360, 360),
        failed=0,
        finished=20,
        runs=tuple((at(start), at(end)) for start, end in case.get("runs", [])),
    )
    looks = [
        TagSeen(at=at(hours), repository="r", tag=TAG, state=SyncState.PARTIAL, bytes_missing=missing)
        for hours, missing in case.get("looks", [])
    ]
    given = {name: case[name] for name in ("kind", "others", "nearest") if name in case}
    return Question.model_validate(
        given
        | {
            "tag": TAG,
            "mirror": "m.example",
            "state": case["state"],
            "upstream": case.get("upstream", "not_asked"),
            "now": NOW,
            "job": Job(name="images", status=job["status"], **times) if job else None,
            "learned": learned,
            "released": at(case["released"]) if "released" in case else None,
            "looks": looks,
        }
    )


@pytest.mark.parametrize("case", cases("forecasts"), ids=lambda case: case["case"])
def test_when_to_wait_and_when_to_move(case: dict[str, Any]) -> None:
    told = forecast(a_question(case))
    assert told.decision == case["decision"]
    assert (told.problem is None) == (case["state"] == "complete")
    if "code" in case:
        assert told.problem is not None
        assert told.problem.code == case["code"]
        assert told.problem.fix.startswith(case.get("fix", ""))
    assert (told.p50 is not None) == (told.decision == "wait_until")
    for name in ("p50", "p90"):
        if name in case:
            assert getattr(told, name) == at(case[name])
    assert told.is_prior is case.get("prior", False)
    evidence = {given.name: given.value for given in told.evidence}
    assert evidence["state"] == case["state"]
    dated = {"interval_seconds", "bytes_per_second"} & evidence.keys()
    assert bool(dated) == (told.problem is not None and told.problem.code in DATED)


DATED = {"not_yet", "sync_stopped", "sync_stalled", "not_taken"}


def test_only_what_is_new_is_written_down() -> None:
    job = Job(name="images", status="success", last_ended=at(-2))
    known: list[Sighting] = [
        FeedSeen(at=at(-1), job=job),
        ListedSeen(at=at(-1), repository="r", tag="a"),
        TagSeen(at=at(-1), repository="r", tag="a", state=SyncState.PARTIAL, bytes_missing=2),
    ]
    later = [seen.model_copy(update={"at": NOW}) for seen in known]
    less = later[2].model_copy(update={"bytes_missing": 1})
    assert news(known, later) == []
    assert news(known, [*later[:2], less]) == [less]
    assert news([], later) == later


def test_by_when_a_tag_was_there_upstream() -> None:
    seen = [ListedSeen(at=at(hours), repository=name, tag="a") for hours, name in ((-1, "r"), (-3, "s"))]
    assert first_listed(seen, "a") == at(-3)
    assert first_listed(seen, "b") is None
    assert looks_at(seen, "a") == ()
