"""How far forecasts are from what a simulated tunasync mirror then does, beside the rule "synced at 00:00 and 12:00".

    python -m bench.forecast

The habits are assumptions; the numbers compare two rules, they promise nothing of a real mirror.
"""

import random
from statistics import mean, median

from provisioner.domain.forecast.history import FeedSeen, Learned, learn
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
    print(f"{'mirror':26} {'known':>6} {'ours, mean':>11} {'median':>8} {'clock rule':>11} {'p90 held':>9}")
    for name, habits in MIRRORS.items():
        made = runs(habits, seed=1, until=800 * DAY)
        for days in (1, 20):
            _print_row(name, habits_known_after(made, days), made, days)


def habits_known_after(made: list[Run], days: int) -> Learned:
    seen = [FeedSeen(at=moment(when), job=job) for when, job in polls(made, HOUR, days * DAY)]
    return learn(seen, "images")


def _print_row(name: str, learned: Learned, made: list[Run], days: int) -> None:
    chance, kept = random.Random(1), list[bool]()
    ours, clock = list[float](), list[float]()
    while len(ours) < RELEASES:
        released = chance.uniform(30, 700) * DAY
        now = released + chance.uniform(0, 2) * HOUR
        true = complete_at(made, released)
        if true <= now:
            continue
        told = next_complete(feed_at(made, now), learned, moment(released), moment(now))
        ours.append(abs((told.p50 - moment(true)).total_seconds()) / HOUR)
        clock.append(abs(by_the_clock(now) - true) / HOUR)
        kept.append(moment(true) <= told.p90)
    print(f"{name:26} {days:>4} d {mean(ours):>9.2f} h {median(ours):>6.2f} h {mean(clock):>9.2f} h {mean(kept):>8.0%}")


if __name__ == "__main__":
    main()
