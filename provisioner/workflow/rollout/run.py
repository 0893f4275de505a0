"""What was set out to do, done: the nodes claimed, the waves gone through, the nodes let go, one record for each."""

from collections.abc import Sequence
from typing import NamedTuple

from provisioner.domain.rollout.report import DONE, NodeRecord, access_of
from provisioner.domain.rollout.run_spec import RunSpec
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Fleet, NodeFleet
from provisioner.workflow.rollout.claims import release_claims, take
from provisioner.workflow.rollout.pull_throttle import PullThrottle
from provisioner.workflow.rollout.removal import down_orders
from provisioner.workflow.rollout.waves import (
    Gate,
    Records,
    StopRequested,
    WaveRun,
    WaveStep,
    nothing,
    reason_to_stop,
    run_all_waves,
)


class Outcome(NamedTuple):
    """One record per node of the plan, in its order; `stopped` is why some were not started."""

    records: tuple[NodeRecord, ...]
    stopped: Problem | None


def never() -> bool:
    return False


def roll_out(what: RunSpec, fleet: Fleet, on_event: OnEvent, *, local: bool = False, gate: Gate = nothing) -> Outcome:
    """Without a claim: on one's own machine, where nobody else has a say."""
    return go(what, WaveRun(what.waves, forward(what, fleet, never), what.budget, never, gate), on_event, local=local)


def run_waves(  # noqa: PLR0913  (what was agreed, on whom, how it is told and what may stop it)
    what: RunSpec,
    fleet: NodeFleet,
    on_event: OnEvent,
    stop_requested: StopRequested,
    *,
    breaks: str = "",
    gate: Gate = nothing,
) -> Outcome:
    """Raises ProblemError (locked) where another run than `breaks` holds one of its nodes; then nothing was changed."""
    course = WaveRun(what.waves, acts_of(what, fleet, stop_requested), what.budget, stop_requested, gate)
    if what.claim is None or not what.nodes or reason_to_stop(course, {record.node: record for record in what.settled}):
        return go(what, course, on_event)
    away = take(fleet, what.claim, what.nodes, breaks, on_event)
    outcome = go(settling(what, away), course, on_event)
    release_claims(fleet, what.claim, what.nodes, {record.node: record for record in outcome.records})
    return outcome


def forward(what: RunSpec, fleet: Fleet, stop_requested: StopRequested) -> Sequence[WaveStep]:
    sizes = {step.node: step.bytes_to_pull for step in what.plan.steps}
    pull = PullThrottle(fleet.stage, what.orders, sizes, what.pulls, stop_requested)
    return (pull, lambda nodes: fleet.switch({node: what.orders[node] for node in nodes}))


def acts_of(what: RunSpec, fleet: NodeFleet, stop_requested: StopRequested) -> Sequence[WaveStep]:
    """What each wave goes through; the last of them is what changes a node for good."""
    if what.verb == "rollback":
        return (lambda nodes: fleet.roll_back({node: what.back[node] for node in nodes}),)
    if what.verb == "remove":
        orders = down_orders(what)
        return (lambda nodes: fleet.take_down({node: orders[node] for node in nodes}),)
    return forward(what, fleet, stop_requested)


def settling(what: RunSpec, records: Records) -> RunSpec:
    return what.model_copy(update={"settled": (*what.settled, *records.values())})


def go(what: RunSpec, course: WaveRun, on_event: OnEvent, *, local: bool = False) -> Outcome:
    records, stopped = run_all_waves(course, {record.node: record for record in what.settled}, on_event)
    return Outcome(tuple(_reached(what, records, step.node, local) for step in what.plan.steps), stopped)


def _reached(what: RunSpec, records: Records, node: str, local: bool) -> NodeRecord:
    """The record with the way to the seat, where a seat serves."""
    record = records.get(node) or NodeRecord(node=node, state="not_started")
    if record.state not in DONE or node not in what.orders:
        return record
    host_key = record.access.host_key if record.access else ""
    return record.model_copy(update={"access": access_of(what.orders[node].seat, host_key, local=local)})
