"""Measure the error of forecasts for a simulated tunasync mirror, compared with the rule "synced at 00:00 and 12:00".

    python -m bench.forecast

The schedules are assumptions: the numbers compare two rules, and say nothing about a real mirror.
"""

import random
from statistics import mean, median

from provisioner.domain.forecast.history import FeedObservation, JobStatistics, learn_statistics
from provisioner.domain.forecast.schedule import next_complete
from tests.domain.mirror_clock import HOUR, Habits, Run, by_the_clock, complete_at, feed_at, moment, polls, runs

DAY = 24 * HOUR
RELEASES = 1200
MIRRORS = {
    "12 h, runs of 40 min": Habits(),
    "12 h, runs of 3 h": Habits(run=3 * HOUR),
    "6 h, runs of 90 min": Habits(interval=6 * HOUR, run=1.5 * HOUR),
    "12 h, 20 % of runs fail": Habits(fails=0.2, retries=0),
}


def main() -> None:
    """Print the mean and median error in hours of both rules, for each mirror, after 1 and 20 days of observation."""
    print(f"{'mirror':26} {'known':>6} {'ours, mean':>11} {'median':>8} {'clock rule':>11} {'p90 kept':>9}")
    for name, habits in MIRRORS.items():
        made = runs(habits, seed=1, until=800 * DAY)
        for days in (1, 20):
            _print_row(name, learn_habits(made, days), made, days)


def learn_habits(made: list[Run], days: int) -> JobStatistics:
    """Return what is learned from polling the feed of a mirror every hour for `days` days."""
    seen = [FeedObservation(at=moment(when), job=job) for when, job in polls(made, HOUR, days * DAY)]
    return learn_statistics(seen, "images")


def _print_row(name: str, learned: JobStatistics, made: list[Run], days: int) -> None:
    chance, kept = random.Random(1), list[bool]()
    ours, clock = list[float](), list[float]()
    while len(ours) < RELEASES:
        released = chance.uniform(30, 700) * DAY
        now = released + chance.uniform(0, 2) * HOUR
        true = complete_at(made, released)
        if true <= now:
            continue
        forecast = next_complete(feed_at(made, now), learned, moment(released), moment(now))
        ours.append(abs((forecast.p50 - moment(true)).total_seconds()) / HOUR)
        clock.append(abs(by_the_clock(now) - true) / HOUR)
        kept.append(moment(true) <= forecast.p90)
    print(f"{name:26} {days:>4} d {mean(ours):>9.2f} h {median(ours):>6.2f} h {mean(clock):>9.2f} h {mean(kept):>8.0%}")


if __name__ == "__main__":
    main()
