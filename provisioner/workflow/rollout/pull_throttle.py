"""Stage or publish a wave in batches, so that no more nodes pull at once than the registry's bandwidth allows."""

from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from provisioner.domain.lab.waves import max_concurrent_pulls
from provisioner.domain.rollout.order import Orders
from provisioner.domain.rollout.pace import pull_event
from provisioner.domain.rollout.report import NodeRecord, NodeState
from provisioner.workflow.protocols import RunContext, StopRequested

_PULLED: frozenset[NodeState] = frozenset({"staged", "committed"})


class PullOrder(Protocol):
    """An order by which a node pulls an image."""

    @property
    def pull_seconds(self) -> int:
        """How long the pull may take."""
        ...


OrderT = TypeVar("OrderT", bound=PullOrder)


class PullThrottle(Generic[OrderT]):
    """Stages nodes in batches. `sizes`: bytes that each node has to pull.

    `at_once`: nodes that pull at the same time; None: computed from the throughput of the batches before.
    """

    def __init__(
        self,
        stage: Callable[[Orders[OrderT]], Mapping[str, NodeRecord]],
        sizes: Mapping[str, int],
        at_once: int | None,
        context: RunContext,
    ) -> None:
        """Stage by `stage`, until the context asks for a stop. It is told how fast the nodes have pulled."""
        self._stage, self._sizes, self._at_once, self._context = stage, sizes, at_once, context
        self._throughput: float | None = None  # bytes per second

    def __call__(self, orders: Orders[OrderT]) -> Mapping[str, NodeRecord]:
        """Stage the nodes of `orders`. Nodes that are left when a stop is requested get no record."""
        return self.until(orders, self._context.stop)

    def until(self, orders: Orders[OrderT], stop: StopRequested) -> Mapping[str, NodeRecord]:
        """Stage the nodes of `orders`. Nodes that are left when `stop` returns True get no record."""
        records: dict[str, NodeRecord] = {}
        waiting = dict(orders)
        while waiting and not (records and stop()):
            batch = self._next_batch(waiting)
            staged = self._stage(batch)
            self._measure(staged)
            records |= staged
            waiting = {node: order for node, order in waiting.items() if node not in batch}
        return records

    def _next_batch(self, waiting: Orders[OrderT]) -> dict[str, Mapping[str, OrderT]]:
        """Return the nodes that may start now: as many pulls as allowed, and every node that has nothing to pull."""
        pulling = [node for node in waiting if self._sizes.get(node)]
        most = self._at_once
        if most is None and pulling:
            seconds = min(order.pull_seconds for node in pulling for order in waiting[node].values())
            most = max_concurrent_pulls(self._throughput, max(self._sizes[node] for node in pulling), seconds)
        late = set(pulling[most:]) if most else set()
        return {node: order for node, order in waiting.items() if node not in late}

    def _measure(self, records: Mapping[str, NodeRecord]) -> None:
        """Update the throughput: the highest of any batch. A batch lasts as long as its slowest node."""
        staged = [r for r in records.values() if any(seat.state in _PULLED for seat in r.seats)]
        pulled = [record for record in staged if self._sizes.get(record.node)]
        seconds = max((record.seconds for record in pulled), default=0.0)
        if seconds:
            size = sum(self._sizes[record.node] for record in pulled)
            self._throughput = max(self._throughput or 0.0, size / seconds)
            self._context.on_event(pull_event(size, seconds))
