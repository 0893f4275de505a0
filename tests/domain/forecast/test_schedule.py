"""The forecast against a simulated mirror, and the rules that it stands on, one by one."""

import random
from datetime import timedelta
from statistics import mean

import pytest

from provisioner.domain.forecast.feed import Job, JobStatus
from provisioner.domain.forecast.history import FeedSeen, Learned, Sighting, learn
from provisioner.domain.forecast.schedule import missed, next_complete, stalled_since
from tests.domain.mirror_clock import HOUR, Habits, by_the_clock, complete_at, feed_at, moment, polls, runs

KNOWN = Learned(interval=12 * HOUR, run=(HOUR, 2 * HOUR), lag=(600, 1200), failed=0, finished=20)
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
def test_better_than_the_clock_and_within_its_bound(habits: Habits, seed: int) -> None:
    made = runs(habits, seed, until=400 * 24 * HOUR)
    learning = [FeedSeen(at=moment(when), job=job) for when, job in polls(made, HOUR, 20 * 24 * HOUR)]
    learned, chance = learn(learning, "images"), random.Random(seed)
    ours, clock, kept = [], [], []
    for _ in range(200):
        released = chance.uniform(30, 350) * 24 * HOUR
        now = released + chance.uniform(0, 2) * HOUR
        true = complete_at(made, released)
        if true <= now:
            continue
        told = next_complete(feed_at(made, now), learned, moment(released), moment(now))
        ours.append(abs((told.p50 - moment(true)).total_seconds()))
        clock.append(abs(by_the_clock(now) - true))
        kept.append(moment(true) <= told.p90)
    assert not learned.is_prior
    assert mean(ours) < mean(clock)
    assert mean(kept) >= 0.8


def test_due_is_ended_plus_interval_not_a_fixed_hour() -> None:
    told = next_complete(a_job(next_schedule=None), KNOWN, NOON - at(1), NOON)
    assert told.p50 == NOON - at(2) + at(12) + timedelta(seconds=600) + at(1)
    assert told.p90 == NOON + at(10) + timedelta(seconds=1200) + at(2)


def test_a_due_job_that_has_not_begun_is_queued_not_late() -> None:
    told = next_complete(a_job(next_schedule=NOON - at(1)), KNOWN, NOON - at(2), NOON)
    assert told.p50 == NOON + at(1)
    assert told.p90 == NOON + timedelta(seconds=600) + at(2)


def test_a_run_under_way_counts_only_if_it_began_after_the_release() -> None:
    job = a_job(status="syncing", last_started=NOON - at(0.5), next_schedule=None)
    before = next_complete(job, KNOWN, NOON - at(1), NOON)
    since = next_complete(job, KNOWN, NOON - at(0.25), NOON)
    assert before.p50 == NOON + at(0.5)
    assert since.p50 == NOON + at(0.5) + at(12) + timedelta(seconds=600) + at(1)


def test_a_run_that_takes_longer_than_ever_is_still_expected() -> None:
    job = a_job(status="syncing", last_started=NOON - at(9), next_schedule=None)
    told = next_complete(job, KNOWN, NOON - at(10), NOON)
    assert (told.p50, told.p90) == (NOON, NOON + at(1))


def test_a_failed_job_without_a_next_run_is_in_its_retries() -> None:
    job = a_job(status="failed", last_ended=NOON - at(0.1), next_schedule=None)
    assert next_complete(job, KNOWN, NOON - at(1), NOON).p50 == NOON + at(0.9)


@pytest.mark.parametrize(("failed", "cycles"), [(0, 0), (0.1, 0), (0.2, 1), (0.5, 3)])
def test_failures_move_the_bound_by_whole_cycles(failed: float, cycles: int) -> None:
    sure = next_complete(a_job(), KNOWN, NOON, NOON)
    told = next_complete(a_job(), KNOWN.model_copy(update={"failed": failed}), NOON, NOON)
    assert told.p90 - sure.p90 == cycles * (at(12) + at(1) + timedelta(seconds=600))
    assert told.p50 == sure.p50


def test_with_few_runs_seen_the_bound_is_a_cycle_wider() -> None:
    few = KNOWN.model_copy(update={"finished": 4})
    told, sure = (next_complete(a_job(), learned, NOON, NOON) for learned in (few, KNOWN))
    assert few.is_prior
    assert told.p90 - sure.p90 == at(13) + timedelta(seconds=600)


@pytest.mark.parametrize(("hours", "stalls"), [(38, False), (40, True), (None, False)])
def test_stalled_after_three_cycles(hours: float | None, stalls: bool) -> None:
    job = a_job(last_success=None if hours is None else NOON - at(hours))
    assert (stalled_since(job, KNOWN, NOON) is not None) is stalls


def test_runs_that_began_after_the_release() -> None:
    times = ((NOON - at(3), NOON - at(2)), (NOON, NOON + at(1)), (NOON + at(3), NOON + at(4)))
    assert missed(KNOWN.model_copy(update={"runs": times}), NOON - at(2)) == 2


def test_what_is_learned_from_looking_again_and_again() -> None:
    made = runs(Habits(fails=0.5, retries=0, queue=20 * 60), 7, until=40 * 24 * HOUR)
    seen: list[Sighting] = [
        FeedSeen(at=moment(when), job=job) for when, job in polls(made, HOUR, 30 * 24 * HOUR, every=600)
    ]
    learned = learn(seen, "images")
    ended = [run for run in made if run.ended < 30 * 24 * HOUR]
    assert learned.finished == len(ended)
    assert learned.interval == pytest.approx(12 * HOUR)
    assert learned.failed == pytest.approx(mean(not run.well for run in ended))
    assert learned.run[0] == pytest.approx(40 * 60, rel=0.3)
    assert 0 < learned.lag[0] < learned.lag[1] < 2 * HOUR
    assert len(learned.runs) == sum(run.well for run in ended)


def test_of_another_job_nothing_is_learned() -> None:
    seen = FeedSeen(at=NOON, job=a_job())
    assert learn([seen], "other") == Learned()
    assert learn([seen], "images").interval == 12 * HOUR
    assert learn([seen], "images").is_prior


def test_mirrorz_tells_a_start_only_while_it_runs() -> None:
    seen = [
        FeedSeen(at=NOON, job=Job(name="x", status=JobStatus.SYNCING, last_started=NOON)),
        FeedSeen(at=NOON + at(2), job=Job(name="x", status=JobStatus.SUCCESS, last_ended=NOON + at(1))),
    ]
    assert learn(seen, "x").runs == ((NOON, NOON + at(1)),)
