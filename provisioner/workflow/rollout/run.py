"""What was set out to do, done: the nodes claimed, the waves gone through, the nodes let go, one record for each."""

from collections.abc import Sequence
from typing import NamedTuple

from provisioner.domain.rollout.report import DONE, NodeRecord, access_of
from provisioner.domain.rollout.run_spec import Undertaking
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Crew, Fleet
from provisioner.workflow.rollout.claims import let_go, take
from provisioner.workflow.rollout.pull_throttle import Puller
from provisioner.workflow.rollout.removal import down_orders
from provisioner.workflow.rollout.waves import (
    Act,
    Course,
    Halted,
    Hindrance,
    Records,
    go_through,
    nothing,
    why_stop,
)


class Outcome(NamedTuple):
    """One record per node of the plan, in its order; `stopped` is why some were not started."""

    records: tuple[NodeRecord, ...]
    stopped: Problem | None


def never() -> bool:
    return False


def roll_out(
    what: Undertaking, fleet: Fleet, on_event: OnEvent, *, local: bool = False, hindrance: Hindrance = nothing
) -> Outcome:
    """Without a claim: on one's own machine, where nobody else has a say."""
    return go(
        what, Course(what.waves, forward(what, fleet, never), what.budget, never, hindrance), on_event, local=local
    )


def carry_through(  # noqa: PLR0913  (what was agreed, on whom, how it is told and what may stop it)
    what: Undertaking,
    crew: Crew,
    on_event: OnEvent,
    halted: Halted,
    *,
    breaks: str = "",
    hindrance: Hindrance = nothing,
) -> Outcome:
    """Raises CannotGoOn (locked) where another run than `breaks` holds one of its nodes; then nothing was changed."""
    course = Course(what.waves, acts_of(what, crew, halted), what.budget, halted, hindrance)
    if what.claim is None or not what.nodes or why_stop(course, {record.node: record for record in what.settled}):
        return go(what, course, on_event)
    away = take(crew, what.claim, what.nodes, breaks, on_event)
    outcome = go(settling(what, away), course, on_event)
    let_go(crew, what.claim, what.nodes, {record.node: record for record in outcome.records})
    return outcome


def forward(what: Undertaking, fleet: Fleet, halted: Halted) -> Sequence[Act]:
    sizes = {step.node: step.bytes_to_pull for step in what.plan.steps}
    pull = Puller(fleet.stage, what.orders, sizes, what.pulls, halted)
    return (pull, lambda nodes: fleet.switch({node: what.orders[node] for node in nodes}))


def acts_of(what: Undertaking, crew: Crew, halted: Halted) -> Sequence[Act]:
    """What each wave goes through; the last of them is what changes a node for good."""
    if what.verb == "rollback":
        return (lambda nodes: crew.roll_back({node: what.back[node] for node in nodes}),)
    if what.verb == "remove":
        orders = down_orders(what)
        return (lambda nodes: crew.take_down({node: orders[node] for node in nodes}),)
    return forward(what, crew, halted)


def settling(what: Undertaking, records: Records) -> Undertaking:
    return what.model_copy(update={"settled": (*what.settled, *records.values())})


def go(what: Undertaking, course: Course, on_event: OnEvent, *, local: bool = False) -> Outcome:
    records, stopped = go_through(course, {record.node: record for record in what.settled}, on_event)
    return Outcome(tuple(_reached(what, records, step.node, local) for step in what.plan.steps), stopped)


def _reached(what: Undertaking, records: Records, node: str, local: bool) -> NodeRecord:
    """The record with the way to the seat, where a seat serves."""
    record = records.get(node) or NodeRecord(node=node, state="not_started")
    if record.state not in DONE or node not in what.orders:
        return record
    host_key = record.access.host_key if record.access else ""
    return record.model_copy(update={"access": access_of(what.orders[node].seat, host_key, local=local)})
