"""The forecast against a simulated mirror, and each rule of the schedule."""

import random
from datetime import timedelta
from statistics import mean

import pytest

from provisioner.domain.forecast.feed import Job, JobStatus
from provisioner.domain.forecast.history import FeedObservation, JobStatistics, Observation, learn_statistics
from provisioner.domain.forecast.schedule import count_missed_runs, next_complete, stalled_since
from tests.domain.mirror_clock import HOUR, Habits, by_the_clock, complete_at, feed_at, moment, polls, runs

KNOWN = JobStatistics(interval=12 * HOUR, run=(HOUR, 2 * HOUR), lag=(600, 1200), failed=0, finished=20)
NOON = moment(12 * HOUR)


def at(hours: float) -> timedelta:
    return timedelta(hours=hours)


def a_job(**over: object) -> Job:
    """Ended two hours ago, due in ten."""
    given = {
        "name": "images",
        "status": "success",
        "last_success": NOON - at(2),
        "last_started": NOON - at(3),
        "last_ended": NOON - at(2),
        "next_schedule": NOON + at(10),
    }
    return Job.model_validate(given | over)


@pytest.mark.parametrize(
    ("habits", "seed"),
    [
        (Habits(), 1),
        (Habits(run=3 * HOUR), 2),
        (Habits(interval=6 * HOUR, run=1.5 * HOUR), 3),
        (Habits(fails=0.5, retries=2), 4),
        (Habits(fails=0.3, retries=0), 5),
    ],
    ids=["12 h, 40 min", "12 h, 3 h", "6 h, 90 min", "retries", "failures"],
)
def test_forecast_beats_a_fixed_clock_and_keeps_its_p90(habits: Habits, seed: int) -> None:
    made = runs(habits, seed, until=400 * 24 * HOUR)
    learning = [FeedObservation(at=moment(when), job=job) for when, job in polls(made, HOUR, 20 * 24 * HOUR)]
    learned, rng = learn_statistics(learning, "images"), random.Random(seed)
    ours, clock, kept = [], [], []
    for _ in range(200):
        released = rng.uniform(30, 350) * 24 * HOUR
        now = released + rng.uniform(0, 2) * HOUR
        true = complete_at(made, released)
        if true <= now:
            continue
        expected = next_complete(feed_at(made, now), learned, moment(released), moment(now))
        ours.append(abs((expected.p50 - moment(true)).total_seconds()))
        clock.append(abs(by_the_clock(now) - true))
        kept.append(moment(true) <= expected.p90)
    assert not learned.is_prior
    assert mean(ours) < mean(clock)
    assert mean(kept) >= 0.8


def test_job_is_due_one_interval_after_its_last_end() -> None:
    expected = next_complete(a_job(next_schedule=None), KNOWN, NOON - at(1), NOON)
    assert expected.p50 == NOON - at(2) + at(12) + timedelta(seconds=600) + at(1)
    assert expected.p90 == NOON + at(10) + timedelta(seconds=1200) + at(2)


def test_due_job_that_has_not_begun_is_queued() -> None:
    expected = next_complete(a_job(next_schedule=NOON - at(1)), KNOWN, NOON - at(2), NOON)
    assert expected.p50 == NOON + at(1)
    assert expected.p90 == NOON + timedelta(seconds=600) + at(2)


def test_run_in_progress_counts_only_if_it_began_after_the_release() -> None:
    job = a_job(status="syncing", last_started=NOON - at(0.5), next_schedule=None)
    before = next_complete(job, KNOWN, NOON - at(1), NOON)
    since = next_complete(job, KNOWN, NOON - at(0.25), NOON)
    assert before.p50 == NOON + at(0.5)
    assert since.p50 == NOON + at(0.5) + at(12) + timedelta(seconds=600) + at(1)


def test_overdue_run_is_still_expected() -> None:
    job = a_job(status="syncing", last_started=NOON - at(9), next_schedule=None)
    expected = next_complete(job, KNOWN, NOON - at(10), NOON)
    assert (expected.p50, expected.p90) == (NOON, NOON + at(1))


def test_failed_job_that_is_being_retried_runs_since_its_last_attempt() -> None:
    job = a_job(status="failed", last_ended=NOON - at(0.1), next_schedule=None, is_retrying=True)
    assert next_complete(job, KNOWN, NOON - at(1), NOON).p50 == NOON + at(0.9)


@pytest.mark.parametrize(("failed", "cycles"), [(0, 0), (0.1, 0), (0.2, 1), (0.5, 3)])
def test_failures_move_p90_by_whole_cycles(failed: float, cycles: int) -> None:
    sure = next_complete(a_job(), KNOWN, NOON, NOON)
    expected = next_complete(a_job(), KNOWN.model_copy(update={"failed": failed}), NOON, NOON)
    assert expected.p90 - sure.p90 == cycles * (at(12) + at(1) + timedelta(seconds=600))
    assert expected.p50 == sure.p50


def test_with_few_observed_runs_p90_is_a_cycle_later() -> None:
    few = KNOWN.model_copy(update={"finished": 4})
    expected, sure = (next_complete(a_job(), learned, NOON, NOON) for learned in (few, KNOWN))
    assert few.is_prior
    assert expected.p90 - sure.p90 == at(13) + timedelta(seconds=600)


@pytest.mark.parametrize(("hours", "stalls"), [(38, False), (40, True), (None, False)])
def test_job_is_stalled_after_three_cycles(hours: float | None, stalls: bool) -> None:
    job = a_job(last_success=None if hours is None else NOON - at(hours))
    assert (stalled_since(job, KNOWN, NOON) is not None) is stalls


def test_missed_runs_are_those_that_began_after_the_release() -> None:
    times = ((NOON - at(3), NOON - at(2)), (NOON, NOON + at(1)), (NOON + at(3), NOON + at(4)))
    assert count_missed_runs(KNOWN.model_copy(update={"runs": times}), NOON - at(2)) == 2


def test_statistics_from_repeated_observations() -> None:
    made = runs(Habits(fails=0.5, retries=0, queue=20 * 60), 7, until=40 * 24 * HOUR)
    seen: list[Observation] = [
        FeedObservation(at=moment(when), job=job) for when, job in polls(made, HOUR, 30 * 24 * HOUR, every=600)
    ]
    learned = learn_statistics(seen, "images")
    ended = [run for run in made if run.ended < 30 * 24 * HOUR]
    assert learned.finished == len(ended)
    assert learned.interval == pytest.approx(12 * HOUR)
    assert learned.failed == pytest.approx(mean(not run.well for run in ended))
    assert learned.run[0] == pytest.approx(40 * 60, rel=0.3)
    assert 0 < learned.lag[0] < learned.lag[1] < 2 * HOUR
    assert len(learned.runs) == sum(run.well for run in ended)


def test_observations_of_another_job_are_ignored() -> None:
    seen = FeedObservation(at=NOON, job=a_job())
    assert learn_statistics([seen], "other") == JobStatistics()
    assert learn_statistics([seen], "images").interval == 12 * HOUR
    assert learn_statistics([seen], "images").is_prior
    assert (learn_statistics([seen], "images").has_interval, JobStatistics().has_interval) == (True, False)


@pytest.mark.parametrize("days", [-9000, -367, 0])
def test_an_interval_of_years_is_not_learned(days: int) -> None:
    seen = FeedObservation(at=NOON, job=a_job(last_ended=NOON + timedelta(days=days), next_schedule=NOON))
    learned = learn_statistics([seen], "images")
    assert (learned.has_interval, learned.interval) == (False, JobStatistics().interval)


def test_start_of_a_mirrorz_run_is_taken_from_an_earlier_observation() -> None:
    seen = [
        FeedObservation(at=NOON, job=Job(name="x", status=JobStatus.SYNCING, last_started=NOON)),
        FeedObservation(at=NOON + at(2), job=Job(name="x", status=JobStatus.SUCCESS, last_ended=NOON + at(1))),
    ]
    assert learn_statistics(seen, "x").runs == ((NOON, NOON + at(1)),)
