"""Resume an interrupted run: compare its journal with the state of its nodes, and finish it as it was planned."""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from provisioner.domain.rollout.order import OrderedImage
from provisioner.domain.rollout.plan import Step
from provisioner.domain.rollout.report import NodeRecord, NodeState, RolloutReport
from provisioner.domain.rollout.run_spec import RunSpec
from provisioner.domain.values.event import RecordedEvent
from provisioner.domain.values.node import NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import NodeFleet, Probed, RunContext
from provisioner.workflow.rollout.claims import claim_nodes, release_claims
from provisioner.workflow.rollout.preflight import unique_images
from provisioner.workflow.rollout.run import (
    Outcome,
    build_outcome,
    never_stop,
    settled_records,
    wave_steps,
    with_settled,
)
from provisioner.workflow.rollout.waves import Gate, Records, WaveRun, no_gate, run_all_waves

# After one of these states the node has to be probed for how it ended.
_NOT_FINAL: frozenset[NodeState] = frozenset({"unknown", "unreachable", "not_started"})
# States of a seat's journal that a run writes only once it changes the seat for good.
_CHANGING = {"switching", "verifying", "committed", "rolling_back", "rolled_back", "needs_attention"}


class ResumeState(NamedTuple):
    """`settled`: records of nodes that need nothing more. `begun`: nodes whose change had begun, or is complete."""

    settled: Records
    begun: tuple[str, ...]


def is_open(run_spec: RunSpec, report: RolloutReport | None) -> bool:
    """Whether a run can be resumed. A run that stopped because of too many failures has ended."""
    if report is None:
        return True
    interrupted = report.stopped is not None and report.stopped.code == "interrupted"
    lost = {record.node for record in report.nodes if record.state in {"unknown", "unreachable"}}
    return interrupted or bool(lost & set(run_spec.nodes))


def final_records(events: Iterable[RecordedEvent]) -> dict[str, NodeRecord]:
    """Return how nodes ended according to the journal. The last record of a node counts."""
    found = (entry.event.data.get("record") for entry in events if entry.event.phase == "report")
    records = (NodeRecord.model_validate(record) for record in found if record)
    return {record.node: record for record in records if record.state not in _NOT_FINAL}


def assess_nodes(run_spec: RunSpec, ended: Records, probed: Probed) -> ResumeState:
    """Return what is left to do. `ended`: final records of the journal; the present state of these does not matter.

    `probed` are all nodes of the run.
    """
    steps = {step.node: step for step in run_spec.plan.steps}
    found = {node: _assess(run_spec, steps[node], facts) for node, facts in probed.items() if node not in ended}
    settled = {node: record for node, record in found.items() if isinstance(record, NodeRecord)}
    begun = tuple(node for node, state in found.items() if state == "begun")
    return ResumeState({**ended, **settled}, begun)


def remaining_images(run_spec: RunSpec, state: ResumeState, probed: Probed) -> list[OrderedImage]:
    """Return the images that nodes still have to pull, in whole or in part, each once."""
    return unique_images(
        run_spec.orders[node].image
        for node, facts in probed.items()
        if isinstance(facts, NodeFacts) and node in run_spec.orders and node not in {*state.settled, *state.begun}
        if run_spec.orders[node].image.reference.rpartition("@")[2] not in facts.images
    )


def _assess(run_spec: RunSpec, step: Step, facts: NodeFacts | Problem) -> NodeRecord | str:
    """Return a record where nothing is left to do on the node, else "begun" or "untouched"."""
    if isinstance(facts, Problem):
        # Only the node knows whether the run had changed it, so the run stays open until the node can be probed.
        state: NodeState = "skipped" if facts.code == "not_in_inventory" else "unknown"
        return NodeRecord(node=step.node, state=state, problems=(facts,))
    if run_spec.verb == "remove":
        return "untouched"  # to remove a seat again changes nothing
    seat = facts.seat(step.seat)
    generation = seat.generation if seat else 0
    if seat and seat.run == run_spec.run and seat.state in _CHANGING:
        return "begun"
    return "untouched" if generation == step.generation else _changed_since(run_spec, step, seat, generation)


def _changed_since(run_spec: RunSpec, step: Step, seat: RunningSeat | None, generation: int) -> NodeRecord:
    """Return the record of a node that another run has changed: unchanged where it runs what was ordered."""
    order = run_spec.orders.get(step.node)
    if seat and order and (seat.image, seat.files) == (order.image.reference, order.files):
        return NodeRecord(node=step.node, state="unchanged", generation=generation)
    problem = Problem(
        "stale_plan",
        f"{step.node} is at generation {generation}, and was at {step.generation} when the run was planned",
        "another run has changed it since, and a run applies its plan exactly or not at all",
        "see `provision plan` for what is left to do there",
        step.node,
    )
    return NodeRecord(node=step.node, state="stale", generation=generation, problems=(problem,))


def resume(  # noqa: PLR0913  (the run, its state, and how it goes on)
    run_spec: RunSpec,
    state: ResumeState,
    fleet: NodeFleet,
    context: RunContext,
    *,
    breaks: str = "",
    gate: Gate = no_gate,
) -> Outcome:
    """Finish the run. `run_spec` has a claim that no node has seen yet.

    Raises ProblemError (locked) where a run other than `breaks` has claimed one of the nodes.
    """
    steps, run_spec = wave_steps(run_spec, fleet, context.stop), with_settled(run_spec, state.settled)
    left = [node for node in run_spec.nodes if node not in state.settled]
    begun: list[str] = []
    if run_spec.claim and left and not context.stop():
        unclaimed = claim_nodes(fleet, run_spec.claim, left, breaks, context.on_event, begun=state.begun)
        begun = [node for node in state.begun if node not in unclaimed]
        # A change that has begun is completed whatever else fails, and also after a stop request.
        completing = WaveRun([begun], steps[-1:], len(left))
        ended = run_all_waves(completing, {}, replace(context, stop=never_stop)).records
        run_spec = with_settled(run_spec, {**unclaimed, **ended, **_already_committed(run_spec, ended, fleet)})
    wave_run = WaveRun(run_spec.waves, steps, run_spec.budget, gate)
    outcome = build_outcome(run_spec, run_all_waves(wave_run, settled_records(run_spec), context))
    if run_spec.claim:
        # A node that was released before may have been claimed again by a resumption that was interrupted, too.
        fresh = set(left) - set(begun)
        now = [record for record in outcome.records if record.node in fresh or record.state == "unknown"]
        release_claims(fleet, run_spec.claim, run_spec.nodes, {record.node: record for record in now})
    return outcome


def _already_committed(run_spec: RunSpec, ended: Records, fleet: NodeFleet) -> Records:
    """Return records of nodes that refused to repeat a change that was complete but for its last journal entry."""
    doubtful = [node for node, record in ended.items() if record.state in {"failed", "stale"}]
    probed = fleet.probe(doubtful) if doubtful else {}
    steps = {step.node: step for step in run_spec.plan.steps}
    found = {node: _assess(run_spec, steps[node], facts) for node, facts in probed.items()}
    return {node: r for node, r in found.items() if isinstance(r, NodeRecord) and r.state == "unchanged"}
