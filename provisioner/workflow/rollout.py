"""The main job: what the plan says, first on one node, then on the rest, each judged by what it reports itself."""

from collections.abc import Callable, Mapping, Sequence

from provisioner.domain.event import Event, OnEvent
from provisioner.domain.order import Order
from provisioner.domain.plan import Plan, Step
from provisioner.domain.problem import Problem
from provisioner.domain.report import DONE, NodeRecord, NodeState, access_of
from provisioner.domain.seat import SeatBundle
from provisioner.workflow.hands import Fleet
from provisioner.workflow.plan import Prepared

Hindrance = Callable[[], Problem | None]


def roll_out(  # noqa: PLR0913  (what was agreed, on whom, for how long, and how it is told)
    prepared: Prepared,
    orders: Mapping[str, Order],
    fleet: Fleet,
    on_event: OnEvent,
    *,
    local: bool = False,
    hindrance: Hindrance = lambda: None,
) -> tuple[NodeRecord, ...]:
    """One record per step, in the plan's order. The run stops after the first wave in which any node was not done.

    `hindrance` is asked before every wave; once it names one, the nodes that are left are deferred.
    """
    records = {step.node: _settled(step) for step in prepared.plan.steps if step not in prepared.plan.pending}
    for wave in waves([step.node for step in prepared.plan.pending]):
        if problem := hindrance():
            records |= _left_for_later(prepared.plan, records, problem, on_event)
            break
        records |= _wave({node: orders[node] for node in wave}, fleet)
        _tell(records, wave, on_event)
        if any(records[node].state not in DONE for node in wave):
            break
    return tuple(_reachable(records, step.node, prepared.bundles, local) for step in prepared.plan.steps)


def _left_for_later(
    plan: Plan, records: Mapping[str, NodeRecord], problem: Problem, on_event: OnEvent
) -> dict[str, NodeRecord]:
    """The nodes that no wave has come to."""
    on_event(Event(phase="switch", kind="note", text=f"no further wave begins: {problem.what}"))
    return {
        step.node: NodeRecord(node=step.node, state="deferred", generation=step.generation, problems=(problem,))
        for step in plan.pending
        if step.node not in records
    }


def waves(nodes: Sequence[str]) -> list[Sequence[str]]:
    """The first node alone, then the rest."""
    return [wave for wave in (nodes[:1], nodes[1:]) if wave]


def _wave(orders: Mapping[str, Order], fleet: Fleet) -> dict[str, NodeRecord]:
    """Nothing old stops on any node of the wave before every one of them holds all that is new."""
    staged = fleet.stage(orders)
    failed = {node: record for node, record in staged.items() if record.state != "staged"}
    if failed:
        return {node: failed.get(node, _not_started(node)) for node in orders}
    return dict(fleet.switch(orders))


def _settled(step: Step) -> NodeRecord:
    state: NodeState = "skipped"
    if step.action == "keep":
        state = "unchanged"
    elif step.action == "defer":
        state = "deferred"
    elif any(problem.code == "unreachable" for problem in step.problems):
        state = "unreachable"
    return NodeRecord(node=step.node, state=state, generation=step.generation, problems=step.problems)


def _not_started(node: str) -> NodeRecord:
    return NodeRecord(node=node, state="not_started")


def _reachable(
    records: Mapping[str, NodeRecord], node: str, bundles: Mapping[str, SeatBundle], local: bool
) -> NodeRecord:
    """The record with the way to the seat, where a seat serves."""
    record = records.get(node) or _not_started(node)
    if record.state not in DONE:
        return record
    host_key = record.access.host_key if record.access else ""
    return record.model_copy(update={"access": access_of(bundles[node].seat, host_key, local=local)})


def _tell(records: Mapping[str, NodeRecord], wave: Sequence[str], on_event: OnEvent) -> None:
    for node in wave:
        record = records[node]
        kind = "done" if record.state in DONE else "failed"
        text = record.problems[0].what if record.problems else record.state
        on_event(Event(phase="report", kind=kind, node=node, text=text, data={"state": record.state}))
