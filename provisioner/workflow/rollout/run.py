"""Execute a run: claim its nodes, run its waves, release the nodes, and return one record for each."""

from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from provisioner.domain.rollout.order import AssignOrder, Order
from provisioner.domain.rollout.report import (
    DONE,
    EnvironmentRecord,
    NodeRecord,
    SeatRecord,
    build_access,
    build_node_record,
    merge_records,
    with_environments,
)
from provisioner.domain.rollout.run_spec import RunSpec
from provisioner.domain.self_service.publication import SELF_SERVICE_NAME
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.protocols import Fleet, NodeFleet, RunContext
from provisioner.workflow.rollout.claims import claim_nodes, release_claims
from provisioner.workflow.rollout.pull_throttle import PullThrottle
from provisioner.workflow.rollout.removal import removal_orders
from provisioner.workflow.rollout.waves import (
    Gate,
    Records,
    WaveRun,
    WavesResult,
    WaveStep,
    no_gate,
    reason_to_stop,
    run_all_waves,
    too_many_failures,
)


class Outcome(NamedTuple):
    """One record per node of the plan, in its order; `stopped` is why some seats were not started, or None."""

    records: tuple[NodeRecord, ...]
    stopped: Problem | None


def never_stop() -> bool:
    """Return False: no stop is ever requested."""
    return False


def roll_out_locally(run_spec: RunSpec, fleet: Fleet, context: RunContext) -> Outcome:
    """Roll out to the user's own machine, without a claim: no other controller changes it."""
    wave_run = WaveRun(run_spec.waves, _rollout_steps(run_spec, fleet, context), run_spec.budget)
    return build_outcome(run_spec, run_all_waves(wave_run, settled_records(run_spec), context), local=True)


def run_waves(
    run_spec: RunSpec, fleet: NodeFleet, context: RunContext, *, breaks: str = "", gate: Gate = no_gate
) -> Outcome:
    """Claim the nodes of a run, run its waves and release what is still claimed.

    The journal keeps the run spec from before the first claim, so that the run can be resumed.

    Raises ProblemError (locked) where a run other than `breaks` has claimed one of the nodes; nothing was changed then.
    """
    wave_run = build_wave_run(run_spec, wave_steps(run_spec, fleet, context), gate)
    claim = run_spec.claim
    if run_spec.nodes:
        context.journal.keep("undertaking", run_spec)
    if claim is None or not run_spec.nodes or reason_to_stop(wave_run, settled_records(run_spec), context.stop):
        return build_outcome(run_spec, run_all_waves(wave_run, settled_records(run_spec), context))
    try:
        unclaimed = claim_nodes(fleet, claim, run_spec.claims, breaks, context.on_event)
    except ProblemError as error:
        if error.ending == "locked":
            context.journal.forget("undertaking")
        raise
    run_spec = with_settled(run_spec, unclaimed)
    outcome = build_outcome(run_spec, run_all_waves(wave_run, settled_records(run_spec), context))
    release_claims(fleet, claim, run_spec.nodes, {record.node: record for record in outcome.records})
    return outcome


def build_wave_run(run_spec: RunSpec, steps: Sequence[WaveStep[Any]], gate: Gate) -> WaveRun:
    """Return the waves of a run with these steps."""
    explain = first_node_failed if run_spec.verb.startswith("seats ") else too_many_failures
    return WaveRun(run_spec.waves, steps, run_spec.budget, gate, explain)


def first_node_failed(nodes: Sequence[str], _budget: int) -> Problem:
    """Return why the seats of one person on further nodes are not changed."""
    return Problem(
        "too_many_failures",
        f"{', '.join(nodes)} failed or could not be reached, so no seat on another node is changed",
        "a seat that a person has elsewhere runs on until the one on the node of their place works",
        "find the cause and repair it, then run the command again",
    )


def wave_steps(run_spec: RunSpec, fleet: NodeFleet, context: RunContext) -> Sequence[WaveStep[Any]]:
    """Return the steps of each wave: those of seats, and after them the one of self-service."""
    orders = {node: {SELF_SERVICE_NAME: order} for node, order in run_spec.publications.items()}
    if not orders:
        return seat_steps(run_spec, fleet, context)
    publish = PullThrottle(fleet.publish, _bytes_to_publish(run_spec), run_spec.pulls, context)
    return (*seat_steps(run_spec, fleet, context), WaveStep(publish, orders, partial(_refuse_held_gpus, run_spec)))


def _refuse_held_gpus(run_spec: RunSpec, node: str, record: NodeRecord | None) -> Problem | None:
    """Return why self-service is not published: a seat still has GPUs of the new pool, as its change has failed."""
    pool = {gpu for one in run_spec.plan.published if one.node == node for gpu in one.pool}
    givers = {step.seat for step in run_spec.plan.pending if step.node == node and pool & {*step.gpus}}
    done = {seat.seat for seat in record.seats if seat.state in DONE} if record else set()
    left = sorted(name for name in givers - done if name)
    if not left:
        return None
    return Problem(
        "gpu_held",
        f"{node}: {', '.join(left)} still has GPUs that are to be leased, and was neither changed nor stopped",
        "an own GPU has one user: somebody could lease it while another person computes on it",
        f"see the problems of {left[0]}, then run the command again",
        node,
    )


def seat_steps(run_spec: RunSpec, fleet: NodeFleet, context: RunContext) -> Sequence[WaveStep[Any]]:
    """Return the steps of the seats of a wave. The last of them is the one that changes a seat for good."""
    if run_spec.verb == "rollback":
        return (WaveStep(fleet.roll_back, run_spec.back),)
    if run_spec.verb == "remove":
        return (WaveStep(fleet.take_down, removal_orders(run_spec)),)
    return _rollout_steps(run_spec, fleet, context)


def _rollout_steps(run_spec: RunSpec, fleet: Fleet, context: RunContext) -> Sequence[WaveStep[Any]]:
    stage = PullThrottle(fleet.stage, _bytes_to_pull(run_spec), run_spec.pulls, context)
    stops, starts, others = removal_orders(run_spec), *_split_orders(run_spec)
    # Seats that are stopped come first: others may take their ports and cards.
    changes = {node: {**stops.get(node, {}), **starts.get(node, {}), **others.get(node, {})} for node in run_spec.nodes}
    ahead = stage.until if run_spec.prefetch else None
    return (WaveStep(stage, starts, ahead=ahead), WaveStep(fleet.switch, changes))


def _split_orders(run_spec: RunSpec) -> tuple[dict[str, dict[str, Order]], dict[str, dict[str, AssignOrder]]]:
    """Return the orders of seats that start with a new generation, and of those that change while they run."""
    running = {(step.node, step.seat) for step in run_spec.plan.pending if step.action == "assign"}
    starts: dict[str, dict[str, Order]] = {}
    others: dict[str, dict[str, AssignOrder]] = {}
    for node, orders in run_spec.orders.items():
        starts[node] = {seat: order for seat, order in orders.items() if (node, seat) not in running}
        others[node] = {seat: _assign_order(order) for seat, order in orders.items() if (node, seat) in running}
    return starts, others


def _assign_order(order: Order) -> AssignOrder:
    names = AssignOrder.model_fields.keys() - {"act"}
    return AssignOrder.model_validate({name: getattr(order, name) for name in names})


def _bytes_to_pull(run_spec: RunSpec) -> dict[str, int]:
    """Return how much each node pulls; an image that several of its seats share is pulled once."""
    return {node: sum(images.values()) for node, images in _image_sizes(run_spec).items()}


def _image_sizes(run_spec: RunSpec) -> dict[str, dict[str | None, int]]:
    """Return for each node the images that its seats pull, by tag, with their sizes."""
    sizes: dict[str, dict[str | None, int]] = {}
    for step in run_spec.plan.steps:
        sizes.setdefault(step.node, {})[step.image] = step.bytes_to_pull
    return sizes


def _bytes_to_publish(run_spec: RunSpec) -> dict[str, int]:
    """Return how much each node pulls for its self-service; what its seats have pulled before is there then."""
    pulled = _image_sizes(run_spec)
    found = dict[str, int]()
    for one in run_spec.plan.published:
        order = run_spec.publications.get(one.node)
        tags = {image.tag for image in order.config.images} if order and order.config else set()
        there = sum(size for tag, size in pulled.get(one.node, {}).items() if tag in tags)
        found[one.node] = max(0, one.bytes_to_pull - there)
    return found


def with_settled(run_spec: RunSpec, records: Records) -> RunSpec:
    """Return the run spec with further nodes and seats that the run leaves as they are."""
    return run_spec.model_copy(update={"settled": (*run_spec.settled, *records.values())})


def settled_records(run_spec: RunSpec) -> Records:
    """Return the records of the nodes and seats that the run leaves as they are, by node."""
    records: dict[str, NodeRecord] = {}
    for record in run_spec.settled:
        records[record.node] = merge_records(records.get(record.node), record)
    return records


def build_outcome(run_spec: RunSpec, result: WavesResult, *, local: bool = False) -> Outcome:
    """Build the record of every node of the plan. `local`: the user is at the machine of the seat."""
    pending = run_spec.plan.changed_names
    records = (
        _final_record(run_spec, result.records.get(node), node, pending.get(node, ()), local)
        for node in run_spec.plan.nodes
    )
    return Outcome(tuple(records), result.stopped)


def _final_record(
    run_spec: RunSpec, record: NodeRecord | None, node: str, pending: Collection[str], local: bool
) -> NodeRecord:
    """Return the record of a node for the report: counted, and with how to reach each seat that changed."""
    if record is not None and not record.seats:
        return record
    known = record.seats if record else ()
    names = {seat.seat for seat in known}
    rest = [SeatRecord(seat=seat, state="not_started") for seat in pending if seat not in names]
    own = next((seat for seat in (*known, *rest) if seat.seat == SELF_SERVICE_NAME), None)
    seats = [_with_access(run_spec, node, seat, local) for seat in (*known, *rest) if seat is not own]
    released = record.released if record else False
    if own is None:
        return _record_of_seats(node, seats, released=released)
    of_seats = _record_of_seats(node, seats, released=released) if seats else None
    whole = with_environments(of_seats, own, node, _environments(run_spec, node, own))
    return whole.model_copy(update={"released": released})


def _record_of_seats(node: str, seats: Sequence[SeatRecord], *, released: bool) -> NodeRecord:
    shown = tuple(seat for seat in seats if seat.state != "unchanged" or seat.problems)
    counts = dict(Counter(seat.state for seat in seats))
    return build_node_record(node, seats, released=released).model_copy(update={"counts": counts, "seats": shown})


def _environments(run_spec: RunSpec, node: str, own: SeatRecord) -> dict[str, EnvironmentRecord]:
    """Return how the publication of each environment of a node ended."""
    publication = next(found for found in run_spec.plan.publications if found.node == node)
    done: Literal["published", "removed"] = "removed" if publication.action == "remove" else "published"
    state = done if own.state == "committed" else own.state
    return {name: EnvironmentRecord(version=version, state=state) for name, version in publication.environments.items()}


def _with_access(run_spec: RunSpec, node: str, record: SeatRecord, local: bool) -> SeatRecord:
    order = run_spec.orders.get(node, {}).get(record.seat)
    if record.state not in DONE or order is None:
        return record
    host_key = record.access.host_key if record.access else ""
    return record.model_copy(update={"access": build_access(order.seat, host_key, local=local)})
