"""A run that was cut off, brought to the end that it would have come to, by what was heard and what nodes say."""

from collections.abc import Iterable
from typing import NamedTuple

from provisioner.domain.rollout.order import OrderedImage
from provisioner.domain.rollout.plan import Step
from provisioner.domain.rollout.report import NodeRecord, NodeState, RolloutReport
from provisioner.domain.rollout.run_spec import RunSpec
from provisioner.domain.values.event import OnEvent, Recorded
from provisioner.domain.values.node import NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import NodeFleet, Probed
from provisioner.workflow.rollout.claims import release_claims, take
from provisioner.workflow.rollout.preflight import once
from provisioner.workflow.rollout.run import Outcome, acts_of, go, never, settling
from provisioner.workflow.rollout.waves import Gate, Records, StopRequested, WaveRun, nothing, run_all_waves

# Of these a node has to say itself how it stands.
_NOT_AN_END: frozenset[NodeState] = frozenset({"unknown", "unreachable", "not_started"})
# States of a seat's journal that no run writes before it changes the seat for good.
_CHANGING = {"switching", "verifying", "committed", "rolling_back", "rolled_back", "needs_attention"}


class Standing(NamedTuple):
    """`known`: nodes that need nothing any more. `begun`: nodes that the run was about to change for good, or has."""

    known: Records
    begun: tuple[str, ...]


def is_open(what: RunSpec, report: RolloutReport | None) -> bool:
    """Whether the run has not come to its end. One that stopped because too much went wrong has."""
    if report is None:
        return True
    interrupted = report.stopped is not None and report.stopped.code == "interrupted"
    lost = {record.node for record in report.nodes if record.state in {"unknown", "unreachable"}}
    return interrupted or bool(lost & set(what.nodes))


def heard(events: Iterable[Recorded]) -> dict[str, NodeRecord]:
    """How nodes ended, as far as somebody was there to write it down; the last word counts."""
    told = (entry.event.data.get("record") for entry in events if entry.event.phase == "report")
    records = (NodeRecord.model_validate(record) for record in told if record)
    return {record.node: record for record in records if record.state not in _NOT_AN_END}


def stand(what: RunSpec, ended: Records, probed: Probed) -> Standing:
    """`ended` as heard of before: of these it does not matter how they stand now. `probed` are all nodes of the run."""
    steps = {step.node: step for step in what.plan.steps}
    verdicts = {node: _verdict(what, steps[node], facts) for node, facts in probed.items() if node not in ended}
    known = {node: verdict for node, verdict in verdicts.items() if isinstance(verdict, NodeRecord)}
    begun = tuple(node for node, verdict in verdicts.items() if verdict == "begun")
    return Standing({**ended, **known}, begun)


def left_to_pull(what: RunSpec, standing: Standing, probed: Probed) -> list[OrderedImage]:
    """By nodes that the run has not come to, or that hold it only in part."""
    return once(
        what.orders[node].image
        for node, facts in probed.items()
        if isinstance(facts, NodeFacts) and node in what.orders and node not in {*standing.known, *standing.begun}
        if what.orders[node].image.reference.rpartition("@")[2] not in facts.images
    )


def _verdict(what: RunSpec, step: Step, facts: NodeFacts | Problem) -> NodeRecord | str:
    """A record where nothing is left to do, else `begun` or `untouched`."""
    if isinstance(facts, Problem):
        # Whether the run had come to it, only the node knows; so the run stays open until it has said so.
        state: NodeState = "skipped" if facts.code == "not_in_inventory" else "unknown"
        return NodeRecord(node=step.node, state=state, problems=(facts,))
    seat = next((seat for seat in facts.seats if seat.name == step.seat), None)
    if what.verb == "remove":
        return "untouched"  # taking down what is gone already is nothing
    generation = seat.generation if seat else 0
    if seat and seat.run == what.run and seat.state in _CHANGING:
        return "begun"
    return "untouched" if generation == step.generation else _moved(what, step, seat, generation)


def _moved(what: RunSpec, step: Step, seat: RunningSeat | None, generation: int) -> NodeRecord:
    order = what.orders.get(step.node)
    if seat and order and (seat.image, seat.files) == (order.image.reference, order.files):
        return NodeRecord(node=step.node, state="unchanged", generation=generation)
    return NodeRecord(node=step.node, state="stale", generation=generation, problems=(_stale(step, generation),))


def _stale(step: Step, generation: int) -> Problem:
    return Problem(
        "stale_plan",
        f"{step.node} is at generation {generation}, and was at {step.generation} when this was agreed",
        "somebody else has changed it since, and what was agreed is what runs, or nothing does",
        "see `provision plan` for what is left to do there",
    )


def resume(  # noqa: PLR0913  (the run, what is known of it, and how it goes on)
    what: RunSpec,
    standing: Standing,
    fleet: NodeFleet,
    on_event: OnEvent,
    *,
    stop_requested: StopRequested = never,
    breaks: str = "",
    gate: Gate = nothing,
) -> Outcome:
    """`what` with a claim that no node has seen yet. Raises ProblemError (locked) where another run holds a node."""
    acts, what = acts_of(what, fleet, stop_requested), settling(what, standing.known)
    course = WaveRun(what.waves, acts, what.budget, stop_requested, gate)
    left = [node for node in what.nodes if node not in standing.known]
    begun: list[str] = []
    if what.claim and left and not stop_requested():
        away = take(fleet, what.claim, left, breaks, on_event)
        begun = [node for node in standing.begun if node not in away]
        # Followed to its end whatever else went wrong, and also where somebody says stop.
        ended = run_all_waves(WaveRun([begun], acts[-1:], len(left), never), {}, on_event).records
        what = settling(what, {**away, **ended, **_arrived(what, ended, fleet)})
    outcome = go(what, course, on_event)
    if what.claim:
        # What was said to be free before may have been claimed after, by a resumption that was cut off, too.
        fresh = set(left) - set(begun)
        now = [record for record in outcome.records if record.node in fresh or record.state == "unknown"]
        release_claims(fleet, what.claim, what.nodes, {record.node: record for record in now})
    return outcome


def _arrived(what: RunSpec, ended: Records, fleet: NodeFleet) -> Records:
    """Nodes that refused to do again what they had done, but for the last line in their journal."""
    doubtful = [node for node, record in ended.items() if record.state in {"failed", "stale"}]
    probed = fleet.probe(doubtful) if doubtful else {}
    steps = {step.node: step for step in what.plan.steps}
    looked = {node: _verdict(what, steps[node], facts) for node, facts in probed.items()}
    return {node: v for node, v in looked.items() if isinstance(v, NodeRecord) and v.state == "unchanged"}
