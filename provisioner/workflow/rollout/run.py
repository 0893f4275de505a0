"""Execute a run: claim its nodes, run its waves, release the nodes, and return one record for each."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from provisioner.domain.rollout.report import DONE, NodeRecord, build_access
from provisioner.domain.rollout.run_spec import RunSpec
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.protocols import Fleet, NodeFleet, RunContext, StopRequested
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
)


class Outcome(NamedTuple):
    """One record per node of the plan, in its order; `stopped` is why some were not started, or None."""

    records: tuple[NodeRecord, ...]
    stopped: Problem | None


def never_stop() -> bool:
    """Return False: no stop is ever requested."""
    return False


def roll_out_locally(run_spec: RunSpec, fleet: Fleet, context: RunContext) -> Outcome:
    """Roll out to the user's own machine, without a claim: no other controller changes it."""
    wave_run = WaveRun(run_spec.waves, _rollout_steps(run_spec, fleet, context.stop), run_spec.budget)
    return build_outcome(run_spec, run_all_waves(wave_run, settled_records(run_spec), context), local=True)


def run_waves(
    run_spec: RunSpec, fleet: NodeFleet, context: RunContext, *, breaks: str = "", gate: Gate = no_gate
) -> Outcome:
    """Claim the nodes of a run, run its waves and release what is still claimed.

    The journal keeps the run spec from before the first claim, so that the run can be resumed.

    Raises ProblemError (locked) where a run other than `breaks` has claimed one of the nodes; nothing was changed then.
    """
    wave_run = WaveRun(run_spec.waves, wave_steps(run_spec, fleet, context.stop), run_spec.budget, gate)
    claim = run_spec.claim
    if run_spec.nodes:
        context.journal.keep("undertaking", run_spec)
    if claim is None or not run_spec.nodes or reason_to_stop(wave_run, settled_records(run_spec), context.stop):
        return build_outcome(run_spec, run_all_waves(wave_run, settled_records(run_spec), context))
    try:
        unclaimed = claim_nodes(fleet, claim, run_spec.nodes, breaks, context.on_event)
    except ProblemError as error:
        if error.ending == "locked":
            context.journal.forget("undertaking")
        raise
    run_spec = with_settled(run_spec, unclaimed)
    outcome = build_outcome(run_spec, run_all_waves(wave_run, settled_records(run_spec), context))
    release_claims(fleet, claim, run_spec.nodes, {record.node: record for record in outcome.records})
    return outcome


def wave_steps(run_spec: RunSpec, fleet: NodeFleet, stop: StopRequested) -> Sequence[WaveStep[Any]]:
    """Return the steps of each wave. The last of them is the one that changes a node for good."""
    if run_spec.verb == "rollback":
        return (WaveStep(fleet.roll_back, run_spec.back),)
    if run_spec.verb == "remove":
        return (WaveStep(fleet.take_down, removal_orders(run_spec)),)
    return _rollout_steps(run_spec, fleet, stop)


def _rollout_steps(run_spec: RunSpec, fleet: Fleet, stop: StopRequested) -> Sequence[WaveStep[Any]]:
    sizes = {step.node: step.bytes_to_pull for step in run_spec.plan.steps}
    stage = PullThrottle(fleet.stage, sizes, run_spec.pulls, stop)
    return (WaveStep(stage, run_spec.orders), WaveStep(fleet.switch, run_spec.orders))


def with_settled(run_spec: RunSpec, records: Records) -> RunSpec:
    """Return the run spec with further nodes that the run leaves as they are."""
    return run_spec.model_copy(update={"settled": (*run_spec.settled, *records.values())})


def settled_records(run_spec: RunSpec) -> Records:
    """Return the records of the nodes that the run leaves as they are, by node."""
    return {record.node: record for record in run_spec.settled}


def build_outcome(run_spec: RunSpec, result: WavesResult, *, local: bool = False) -> Outcome:
    """Build the record of every node of the plan. `local`: the user is at the machine of the seat."""
    records = (_record_with_access(run_spec, result.records, step.node, local) for step in run_spec.plan.steps)
    return Outcome(tuple(records), result.stopped)


def _record_with_access(run_spec: RunSpec, records: Records, node: str, local: bool) -> NodeRecord:
    """Return the record of a node, with how to reach its seat where one runs."""
    record = records.get(node) or NodeRecord(node=node, state="not_started")
    if record.state not in DONE or node not in run_spec.orders:
        return record
    host_key = record.access.host_key if record.access else ""
    return record.model_copy(update={"access": build_access(run_spec.orders[node].seat, host_key, local=local)})
