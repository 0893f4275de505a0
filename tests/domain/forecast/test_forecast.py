from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.forecast.feed import Job, JobStatus
from provisioner.domain.forecast.forecast import ForecastInput, forecast
from provisioner.domain.forecast.history import (
    FeedObservation,
    JobStatistics,
    ListingObservation,
    Observation,
    TagObservation,
    first_listed,
    new_observations,
    tag_observations,
)
from provisioner.domain.values.sync import SyncState
from tests.domain.group import cases

NOW = datetime(2026, 9, 19, 12, tzinfo=UTC)
TAG = "2.15.0-cuda13.0-cudnn9-runtime"


def at(hours: float) -> datetime:
    return NOW + timedelta(hours=hours)


def a_question(case: dict[str, Any]) -> ForecastInput:
    job = case.get("job")
    times = {name: at(hours) for name, hours in (job or {}).items() if name != "status"}
    learned = JobStatistics(
        interval=12 * 3600,
        run=(3600, 7200),
        lag=(360, 360),
        failed=0,
        finished=20,
        has_interval=case.get("interval_seen", True),
        runs=tuple((at(start), at(end)) for start, end in case.get("runs", [])),
    )
    looks = [
        TagObservation(at=at(hours), repository="r", tag=TAG, state=SyncState.PARTIAL, bytes_missing=missing)
        for hours, missing in case.get("looks", [])
    ]
    fields = {name: case[name] for name in ("kind", "others", "nearest") if name in case}
    return ForecastInput.model_validate(
        fields
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
def test_decision_of_each_case(case: dict[str, Any]) -> None:
    result = forecast(a_question(case))
    assert result.decision == case["decision"]
    assert (result.problem is None) == (case["state"] == "complete")
    if "code" in case:
        assert result.problem is not None
        assert result.problem.code == case["code"]
        assert result.problem.fix.startswith(case.get("fix", ""))
        assert case.get("why", "") in result.problem.why
    assert (result.p50 is not None) == (result.decision == "wait_until")
    for name in ("p50", "p90"):
        if name in case:
            assert getattr(result, name) == at(case[name])
    assert result.is_prior is case.get("prior", False)
    evidence = {row.name: row.value for row in result.evidence}
    assert evidence["state"] == case["state"]
    dated = {"interval_seconds", "bytes_per_second"} & evidence.keys()
    assert bool(dated) == (result.problem is not None and result.problem.code in DATED)


HOURS = st.none() | st.floats(-100, 100) | st.floats(-(10**5), 10**4)


@given(st.sampled_from(JobStatus), st.tuples(HOURS, HOURS, HOURS, HOURS), st.booleans(), st.booleans())
def test_a_date_rests_on_a_time_of_the_feed(
    status: JobStatus, hours: tuple[float | None, ...], is_retrying: bool, interval_seen: bool
) -> None:
    names = ("last_success", "last_started", "last_ended", "next_schedule")
    times = {name: at(offset) for name, offset in zip(names, hours, strict=True) if offset is not None}
    job = Job.model_validate({"name": "images", "status": status, "is_retrying": is_retrying, **times})
    known = a_question({"state": "absent", "upstream": "present", "interval_seen": interval_seen})
    result = forecast(known.model_copy(update={"job": job}))
    if result.decision == "wait_until":
        assert job.is_on_demand or any(moment > at(-3 * 13 - 12) for moment in times.values())
        assert result.p50 is not None
        assert result.p90 is not None
        assert NOW <= result.p50 <= result.p90
    else:
        assert result.problem is not None
        assert (result.p50, result.p90) == (None, None)


DATED = {"not_yet", "sync_stopped", "sync_stalled", "not_taken"}


def test_new_observations_are_those_that_differ() -> None:
    job = Job(name="images", status="success", last_ended=at(-2))
    known: list[Observation] = [
        FeedObservation(at=at(-1), job=job),
        ListingObservation(at=at(-1), repository="r", tag="a"),
        TagObservation(at=at(-1), repository="r", tag="a", state=SyncState.PARTIAL, bytes_missing=2),
    ]
    later = [seen.model_copy(update={"at": NOW}) for seen in known]
    less = later[2].model_copy(update={"bytes_missing": 1})
    assert new_observations(known, later) == []
    assert new_observations(known, [*later[:2], less]) == [less]
    assert new_observations([], later) == later


def test_first_listed_is_the_earliest_observation() -> None:
    seen = [ListingObservation(at=at(hours), repository=name, tag="a") for hours, name in ((-1, "r"), (-3, "s"))]
    assert first_listed(seen, "a") == at(-3)
    assert first_listed(seen, "b") is None
    assert tag_observations(seen, "a") == ()
