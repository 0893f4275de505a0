"""Resume an interrupted run: compare its journal with the state of its nodes, and finish it as it was planned."""

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from provisioner.domain.lab.ordered import OrderedImage
from provisioner.domain.rollout.plan import Step
from provisioner.domain.rollout.publish import PublicationOrder
from provisioner.domain.rollout.report import (
    NodeRecord,
    NodeState,
    RolloutReport,
    SeatRecord,
    build_node_record,
    merge_records,
)
from provisioner.domain.rollout.run_spec import RunSpec
from provisioner.domain.self_service.pool import is_of_another_lab
from provisioner.domain.self_service.publication import SELF_SERVICE_NAME, is_older
from provisioner.domain.values.event import RecordedEvent
from provisioner.domain.values.node import NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import NodeFleet, Probed, RunContext
from provisioner.workflow.rollout.claims import claim_nodes, release_claims
from provisioner.workflow.rollout.preflight import unique_images
from provisioner.workflow.rollout.run import (
    Outcome,
    build_outcome,
    build_wave_run,
    never_stop,
    seat_steps,
    settled_records,
    wave_steps,
    with_settled,
)
from provisioner.workflow.rollout.waves import Gate, Records, WaveRun, WaveStep, no_gate, run_all_waves

# After one of these states the node has to be probed for how it ended.
_NOT_FINAL: frozenset[NodeState] = frozenset({"unknown", "unreachable", "not_started"})
# States of a seat's journal that a run writes only once it changes the seat for good.
_CHANGING = {"switching", "verifying", "committed", "rolling_back", "rolled_back", "needs_attention"}


class ResumeState(NamedTuple):
    """What an interrupted run has left. `settled`: records of the seats that need nothing more, by node.

    `begun`: node and seat of each change that had begun, or is complete.
    """

    settled: Records
    begun: frozenset[tuple[str, str]]


def is_open(run_spec: RunSpec, report: RolloutReport | None) -> bool:
    """Whether a run can be resumed. A run that stopped because of too many failures has ended."""
    if report is None:
        return True
    interrupted = report.stopped is not None and report.stopped.code == "interrupted"
    lost = {record.node for record in report.nodes if record.state in {"unknown", "unreachable"}}
    return interrupted or bool(lost & set(run_spec.nodes))


def final_records(events: Iterable[RecordedEvent]) -> dict[str, NodeRecord]:
    """Return how seats ended according to the journal, by node. The last record of a node counts."""
    found = (entry.event.data.get("record") for entry in events if entry.event.phase == "report")
    records = {record.node: record for record in (NodeRecord.model_validate(data) for data in found if data)}
    final = {node: _without_open_seats(record) for node, record in records.items()}
    return {node: record for node, record in final.items() if record is not None}


def _without_open_seats(record: NodeRecord) -> NodeRecord | None:
    """Return the record without the seats that have to be probed for how they ended; None where none is left."""
    if not record.seats:
        return None if record.state in _NOT_FINAL else record
    final = [seat for seat in record.seats if seat.state not in _NOT_FINAL]
    return build_node_record(record.node, final, released=record.released) if final else None


def assess_nodes(run_spec: RunSpec, ended: Records, probed: Probed) -> ResumeState:
    """Return what is left to do. `ended`: final records of the journal; the present state of these does not matter.

    `probed` are all nodes of the run.
    """
    settled, begun = dict(ended), set[tuple[str, str]]()
    for node, facts in probed.items():
        for step in _open_steps(run_spec, node, ended):
            found = _assess(run_spec, step, facts)
            if isinstance(found, SeatRecord):
                settled[node] = merge_records(settled.get(node), build_node_record(node, [found]))
            elif found == "begun":
                begun.add((node, step.seat or ""))
        if (order := _open_publication(run_spec, node, ended)) and (own := _assess_publication(run_spec, order, facts)):
            settled[node] = merge_records(settled.get(node), build_node_record(node, [own]))
    return ResumeState(settled, frozenset(begun))


def remaining_images(run_spec: RunSpec, state: ResumeState, probed: Probed) -> list[OrderedImage]:
    """Return the images that seats still have to pull, in whole or in part, each once."""
    return unique_images(
        order.image
        for node, facts in probed.items()
        if isinstance(facts, NodeFacts)
        for step in _open_steps(run_spec, node, state.settled)
        if (node, step.seat) not in state.begun
        if (order := run_spec.orders.get(node, {}).get(step.seat or ""))
        if order.image.reference.rpartition("@")[2] not in facts.images
    )


def _open_steps(run_spec: RunSpec, node: str, records: Records) -> list[Step]:
    """Return the steps of a node that the run changes, and that `records` do not cover."""
    record = records.get(node)
    if node not in run_spec.nodes or (record is not None and not record.seats):
        return []
    ended = {seat.seat for seat in record.seats} if record else set()
    return [step for step in run_spec.plan.pending if step.node == node and step.seat not in ended]


def _open_publication(run_spec: RunSpec, node: str, records: Records) -> PublicationOrder | None:
    """Return the order of self-service of a node that the run changes, and that `records` do not cover."""
    record = records.get(node)
    is_whole = record is not None and not record.seats
    has_ended = record is not None and any(seat.seat == SELF_SERVICE_NAME for seat in record.seats)
    return None if is_whole or has_ended or node not in run_spec.nodes else run_spec.publications.get(node)


def _is_left(run_spec: RunSpec, node: str, records: Records) -> bool:
    """Whether the run has to change something of a node that `records` do not cover."""
    return bool(_open_steps(run_spec, node, records) or _open_publication(run_spec, node, records))


def _assess_publication(run_spec: RunSpec, order: PublicationOrder, facts: NodeFacts | Problem) -> SeatRecord | None:
    """Return a record where nothing is left to do for the self-service of a node; its order may be repeated."""
    if isinstance(facts, Problem):
        return _unprobed(SELF_SERVICE_NAME, facts)
    if order.config is None:
        return None  # to remove it again changes nothing
    found = None if is_of_another_lab(run_spec.lab, facts.self_service) else facts.self_service
    digest = found.config if found else ""
    if found and digest == order.config.digest and found.runs and not is_older(found.version, order.version):
        return SeatRecord(seat=SELF_SERVICE_NAME, state="unchanged")
    was = next(one.was for one in run_spec.plan.publications if one.node == facts.name)
    if digest in {"", was, order.config.digest}:
        return None
    return SeatRecord(seat=SELF_SERVICE_NAME, state="stale", problems=(_published_since(facts.name),))


def _published_since(node: str) -> Problem:
    return Problem(
        "stale_plan",
        f"the self-service of {node} has another configuration than when the run was planned",
        "another run has published it since, and a run applies its plan exactly or not at all",
        "see `provision plan` for what is left to do there",
        node,
    )


def _unprobed(seat: str, problem: Problem) -> SeatRecord:
    """Return the record of a node without facts.

    Only the node knows whether the run had changed it, so the run stays open until the node can be probed.
    """
    state: NodeState = "skipped" if problem.code == "not_in_inventory" else "unknown"
    return SeatRecord(seat=seat, state=state, problems=(problem,))


def _assess(run_spec: RunSpec, step: Step, facts: NodeFacts | Problem) -> SeatRecord | str:
    """Return a record where nothing is left to do for the seat, else "begun" or "untouched"."""
    name = step.seat or ""
    if isinstance(facts, Problem):
        return _unprobed(name, facts)
    if step.action in {"stop", "remove"}:
        return "untouched"  # to stop or to remove a seat again changes nothing
    seat = facts.seat(name)
    generation = seat.generation if seat else 0
    if seat and seat.run == run_spec.run and seat.state in _CHANGING:
        return "begun"
    return "untouched" if generation == step.generation else _changed_since(run_spec, step, seat, generation)


def _changed_since(run_spec: RunSpec, step: Step, seat: RunningSeat | None, generation: int) -> SeatRecord:
    """Return the record of a seat that another run has changed: unchanged where it runs what was ordered."""
    name = step.seat or ""
    order = run_spec.orders.get(step.node, {}).get(name)
    if seat and order and (seat.image, seat.files) == (order.image.reference, order.files):
        return SeatRecord(seat=name, state="unchanged", generation=generation)
    problem = Problem(
        "stale_plan",
        f"{step.node} is at generation {generation}, and was at {step.generation} when the run was planned",
        "another run has changed it since, and a run applies its plan exactly or not at all",
        "see `provision plan` for what is left to do there",
        step.node,
    )
    return SeatRecord(seat=name, state="stale", generation=generation, problems=(problem,))


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
    steps, run_spec = wave_steps(run_spec, fleet, context), with_settled(run_spec, state.settled)
    left = [node for node in run_spec.nodes if _is_left(run_spec, node, state.settled)]
    completed: set[str] = set()
    if run_spec.claim and left and not context.stop():
        begun_nodes = {node for node, _ in state.begun}
        claims = {node: claim for node, claim in run_spec.claims.items() if node in left}
        unclaimed = claim_nodes(fleet, run_spec.claim, claims, breaks, context.on_event, begun=begun_nodes)
        completing = _begun_only(seat_steps(run_spec, fleet, context)[-1], state.begun, unclaimed)
        # A change that has begun is completed whatever else fails, and also after a stop request.
        wave_run = WaveRun([list(completing.orders)], [completing], len(left))
        ended = run_all_waves(wave_run, {}, replace(context, stop=never_stop)).records
        completed = {node for node in ended if not _is_mixed(run_spec, state, node)}
        run_spec = with_settled(run_spec, {**unclaimed, **ended})
        run_spec = with_settled(run_spec, _already_committed(run_spec, ended, fleet))
    wave_run = build_wave_run(run_spec, steps, gate)
    outcome = build_outcome(run_spec, run_all_waves(wave_run, settled_records(run_spec), context))
    if run_spec.claim:
        # A node that was released before may have been claimed again by a resumption that was interrupted, too.
        fresh = set(left) - completed
        now = [record for record in outcome.records if record.node in fresh or record.state == "unknown"]
        release_claims(fleet, run_spec.claim, run_spec.nodes, {record.node: record for record in now})
    return outcome


def _begun_only(step: WaveStep[Any], begun: Collection[tuple[str, str]], unclaimed: Collection[str]) -> WaveStep[Any]:
    """Return the last step of the waves, for the changes alone that had begun."""
    orders = {
        node: {seat: order for seat, order in seats.items() if (node, seat) in begun}
        for node, seats in step.orders.items()
        if node not in unclaimed
    }
    return step._replace(orders={node: seats for node, seats in orders.items() if seats})


def _is_mixed(run_spec: RunSpec, state: ResumeState, node: str) -> bool:
    """Whether some of the node's changes had begun, and others had not."""
    open_steps = _open_steps(run_spec, node, state.settled)
    has_publication = _open_publication(run_spec, node, state.settled) is not None
    return has_publication or any((node, step.seat) not in state.begun for step in open_steps)


def _already_committed(run_spec: RunSpec, ended: Records, fleet: NodeFleet) -> Records:
    """Return records of seats that refused to repeat a change that was complete but for its last journal entry."""
    refused = {(r.node, seat.seat) for r in ended.values() for seat in r.seats if seat.state in {"failed", "stale"}}
    nodes = sorted({node for node, _ in refused})
    probed = fleet.probe(nodes) if nodes else {}
    steps = [step for step in run_spec.plan.pending if (step.node, step.seat) in refused]
    found = [(step.node, _assess(run_spec, step, probed[step.node])) for step in steps]
    records: dict[str, NodeRecord] = {}
    for node, seat in found:
        if isinstance(seat, SeatRecord) and seat.state == "unchanged":
            records[node] = merge_records(records.get(node), build_node_record(node, [seat]))
    return records
