"""Bring images to nodes before a rollout: within a window, a few nodes at a time, and no faster than allowed."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

from provisioner.domain.lab.calendar import Calendar
from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.ordered import Deadlines, OrderedImage, order_image, order_registry
from provisioner.domain.rollout.fetch import IMAGES, FetchedImage, FetchOrder
from provisioner.domain.rollout.order import Orders
from provisioner.domain.rollout.report import NodeRecord, without_record
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.size import human_size
from provisioner.workflow.protocols import Probed, RunContext, SupportsFetch
from provisioner.workflow.rollout.plan import PreparedPlan
from provisioner.workflow.rollout.preflight import unique_images
from provisioner.workflow.rollout.pull_throttle import PullThrottle

AT_ONCE = 8  # nodes that pull at the same time, where lab.yml says nothing
_TICK = 1.0  # seconds between two looks whether a pause is over


class Fetching(NamedTuple):
    """What is to be fetched. `orders`: by node; `sizes`: bytes that each of these nodes lacks, 0 where not known.

    `settled`: the records of the other nodes of the plan, which lack nothing or cannot be asked. `nodes`: all of them.
    """

    orders: Mapping[str, FetchOrder]
    sizes: Mapping[str, int]
    settled: Mapping[str, NodeRecord]
    nodes: tuple[str, ...]

    @property
    def images(self) -> list[OrderedImage]:
        """The images of all nodes, each once."""
        return unique_images(one.image for order in self.orders.values() for one in order.images)


class FetchRules(NamedTuple):
    """`at_once`: nodes that pull at a time. `bandwidth`: bytes per second of all nodes, on average; None: no limit."""

    calendar: Calendar
    at_once: int = AT_ONCE
    bandwidth: int | None = None


class Fetched(NamedTuple):
    """A record for each node of the plan; `stopped` is why pulls did not begin on some, or None."""

    records: tuple[NodeRecord, ...]
    stopped: Problem | None


def plan_fetch(prepared: PreparedPlan, probed: Probed, lab: Lab, run: str, ca: str | None) -> Fetching:
    """Return what the nodes of a plan lack of the images that it gives them, also those whose seats are in use now.

    `ca`: PEM text of the registry, None: the certs.d of nodes is not changed.
    """
    orders, sizes, settled = dict[str, FetchOrder](), dict[str, int](), dict[str, NodeRecord]()
    for node in prepared.plan.nodes:
        facts = probed[node]
        if isinstance(facts, Problem):
            settled[node] = without_record(node, facts)
            continue
        wanted = {one.image.digest: one for one in _wanted(prepared, node, lab, ca)}
        if lacking := [one for digest, one in wanted.items() if digest not in facts.images]:
            orders[node] = FetchOrder(run=run, lab=lab.name, images=tuple(lacking), keep=tuple(wanted))
            sizes[node] = sum(one.image.bytes for one in lacking)
        else:
            settled[node] = _without_pull(prepared, node)
    return Fetching(orders, sizes, settled, prepared.plan.nodes)


def _without_pull(prepared: PreparedPlan, node: str) -> NodeRecord:
    """Return the record of a node that lacks nothing: it has all, or the plan has no image for it, and says why."""
    if node in prepared.bundles or node in prepared.published:
        return NodeRecord(node=node, state="unchanged")
    steps = [step for step in prepared.plan.skipped if step.node == node]
    problems = tuple(problem for step in steps for problem in step.problems)
    return NodeRecord(node=node, state="skipped" if steps else "unchanged", problems=problems)


def _wanted(prepared: PreparedPlan, node: str, lab: Lab, ca: str | None) -> list[FetchedImage]:
    """Return the images of the seats of a node, and those of its self-service."""
    pull = Deadlines(pull=lab.rollout.pull_deadline_seconds, healthy=0, min_healthy=0)
    found = [
        FetchedImage(image=order_image(bundle.image), registry=order_registry(bundle.image, ca), deadlines=pull)
        for bundle in prepared.bundles.get(node, {}).values()
    ]
    published = prepared.published.get(node)
    environments = published.config.environments.values() if published else ()
    return found + [FetchedImage(image=one.image, registry=one.registry, deadlines=pull) for one in environments]


def fetch(
    fetching: Fetching,
    fleet: SupportsFetch,
    rules: FetchRules,
    context: RunContext,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Fetched:
    """Fetch what nodes lack, and return the record of every node. Pulls that have begun are completed.

    No further pull begins once a stop is requested, or the window has closed.
    """

    def closed() -> Problem | None:
        return rules.calendar.closed_for_fetch(datetime.now(UTC))

    def must_stop() -> bool:
        return context.stop() or closed() is not None

    inside = replace(context, stop=must_stop)
    paced = _Paced(fleet.fetch, fetching.sizes, rules.bandwidth, inside, sleep)
    throttle = PullThrottle(paced, fetching.sizes, rules.at_once, inside)
    records = dict[str, NodeRecord]()
    if fetching.orders and not must_stop():
        records |= throttle({node: {IMAGES: order} for node, order in fetching.orders.items()})
    left = [node for node in fetching.orders if node not in records]
    stopped = None if not left else closed() or _interrupted()
    fetched = {node: record.model_copy(update={"seats": ()}) for node, record in records.items()}
    known = {**fetching.settled, **{node: NodeRecord(node=node, state="not_started") for node in left}, **fetched}
    return Fetched(tuple(known[node] for node in fetching.nodes), stopped)


def _interrupted() -> Problem:
    return Problem(
        "interrupted",
        "stopped on request, after the pulls that had begun",
        "what was fetched stays on the nodes, and nothing that runs was changed",
        "run the same command again: it goes on with the rest",
    )


class _Paced:
    """Fetches to some nodes at a time, and pauses so that the average of all stays within a bandwidth."""

    def __init__(
        self,
        apply: Callable[[Orders[FetchOrder]], Mapping[str, NodeRecord]],
        sizes: Mapping[str, int],
        bandwidth: int | None,
        context: RunContext,
        sleep: Callable[[float], None],
    ) -> None:
        self._apply, self._sizes, self._bandwidth = apply, sizes, bandwidth
        self._context, self._sleep = context, sleep
        self._allowed = 0.0  # seconds until the next pull may begin

    def __call__(self, orders: Orders[FetchOrder]) -> Mapping[str, NodeRecord]:
        """Wait until the pulls before have taken as long as the bandwidth asks for, then fetch."""
        self._pause()
        if self._context.stop() and self._allowed:
            return {}
        began = time.monotonic()
        records = self._apply(orders)
        if self._bandwidth:
            pulled = sum(self._sizes[node] for node, record in records.items() if record.state == "committed")
            self._allowed = pulled / self._bandwidth - (time.monotonic() - began)
        return records

    def _pause(self) -> None:
        if self._allowed > _TICK:
            text = f"waiting {self._allowed:.0f} s, to stay within {human_size(self._bandwidth or 0)}/s"
            self._context.on_event(Event(phase="fetch", kind="note", text=text))
        while self._allowed > 0 and not self._context.stop():
            self._sleep(min(_TICK, self._allowed))
            self._allowed -= _TICK
