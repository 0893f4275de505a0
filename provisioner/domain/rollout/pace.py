"""How long a rollout is expected to take, from how fast earlier runs of the lab have pulled and switched."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

from provisioner.domain.rollout.plan import Plan
from provisioner.domain.rollout.report import RolloutReport
from provisioner.domain.values.event import Event, RecordedEvent
from provisioner.domain.values.size import human_size

LINE = 112_000_000  # bytes per second over 1 Gbit/s Ethernet, without the headers of its frames
SWITCH_SECONDS = 60  # of a wave, where none was measured: start, health checks and verification
PULL_RATE = "bytes_per_second"  # in the data of the event


class Pace(NamedTuple):
    """What was measured. `pull`: bytes per second of all nodes together; `switch`: seconds of a wave; None: unknown."""

    pull: float | None = None
    switch: float | None = None


class Expected(NamedTuple):
    """Seconds of a rollout: of its pulls, and of its waves after them."""

    pulls: float
    waves: float

    @property
    def total(self) -> float:
        """All seconds. Pulls of later waves go on while a wave switches, so it may be less."""
        return self.pulls + self.waves


def pull_event(size: int, seconds: float) -> Event:
    """Return the event that nodes have pulled so many bytes together, by which later runs know how fast it goes."""
    rate = size / seconds
    return Event(
        phase="stage",
        kind="note",
        text=f"{human_size(size)} pulled, {human_size(round(rate))}/s",
        data={PULL_RATE: rate},
    )


def pace_of(events: Iterable[RecordedEvent], reports: Iterable[RolloutReport]) -> Pace:
    """Return the pace of earlier runs: the median of what they have measured."""
    rates = [recorded.event.data[PULL_RATE] for recorded in events if PULL_RATE in recorded.event.data]
    switches = [
        record.seconds for report in reports for record in report.nodes if record.state == "committed" and record.access
    ]
    return Pace(median(rates) if rates else None, median(switches) if switches else None)


def expect(sizes: Sequence[int], waves: int, pace: Pace) -> Expected:
    """Return how long a rollout takes: all nodes pull over one line, then wave after wave switches.

    `sizes`: the bytes that each node pulls.
    """
    switch = SWITCH_SECONDS if pace.switch is None else pace.switch
    return Expected(sum(sizes) / (pace.pull or LINE), waves * switch)


def sizes_to_pull(plan: Plan) -> list[int]:
    """Return the bytes that each node of a plan pulls; an image that several of its seats share is pulled once."""
    sizes: dict[str, dict[str | None, int]] = {}
    for step in plan.pending:
        if step.starts:
            sizes.setdefault(step.node, {})[step.image] = step.bytes_to_pull
    return [size for images in sizes.values() if (size := sum(images.values()))]
