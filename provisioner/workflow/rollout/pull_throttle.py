"""Staging a wave in turns, so that not more nodes pull at once than the registry's line carries."""

from collections.abc import Callable, Mapping, Sequence

from provisioner.domain.lab.waves import pulls_at_once
from provisioner.domain.rollout.order import Order
from provisioner.domain.rollout.report import NodeRecord
from provisioner.workflow.rollout.waves import StopRequested

Stage = Callable[[Mapping[str, Order]], Mapping[str, NodeRecord]]


class PullThrottle:
    """`sizes`: bytes that each node still has to pull. `at_once` None: reckoned from what the turns before measured."""

    def __init__(
        self,
        stage: Stage,
        orders: Mapping[str, Order],
        sizes: Mapping[str, int],
        at_once: int | None,
        stop_requested: StopRequested,
    ) -> None:
        self._stage, self._orders, self._sizes = stage, orders, sizes
        self._at_once, self._halted = at_once, stop_requested
        self._line: float | None = None  # bytes per second

    def __call__(self, nodes: Sequence[str]) -> Mapping[str, NodeRecord]:
        """Nodes whose turn did not come before somebody said stop are `not_started`."""
        records: dict[str, NodeRecord] = {}
        waiting = list(nodes)
        while waiting and not (records and self._halted()):
            now = self._turn(waiting)
            told = self._stage({node: self._orders[node] for node in now})
            self._measure(told)
            records |= told
            waiting = [node for node in waiting if node not in now]
        return records | {node: NodeRecord(node=node, state="not_started") for node in waiting}

    def _turn(self, waiting: Sequence[str]) -> list[str]:
        """Those that need not pull are in nobody's way."""
        pulling = [node for node in waiting if self._sizes.get(node)]
        most = self._at_once
        if most is None and pulling:
            seconds = min(self._orders[node].deadlines.pull for node in pulling)
            most = pulls_at_once(self._line, max(self._sizes[node] for node in pulling), seconds)
        late = set(pulling[most:]) if most else set()
        return [node for node in waiting if node not in late]

    def _measure(self, told: Mapping[str, NodeRecord]) -> None:
        """A turn lasts as long as its slowest node. The most that was ever seen is what the line can give."""
        pulled = [record for record in told.values() if record.state == "staged" and self._sizes.get(record.node)]
        seconds = max((record.seconds for record in pulled), default=0.0)
        if seconds:
            self._line = max(self._line or 0.0, sum(self._sizes[record.node] for record in pulled) / seconds)
