"""What all commands that change nodes share: show the plan, execute the run, report it, return the exit code."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial

from rich.console import RenderableType

from provisioner.adapters.lab.directory import LabDirectory
from provisioner.adapters.state.journal import read_pace
from provisioner.cli.exit_codes import DEFERRED, DONE, FAILED, INTERRUPTED, STALE
from provisioner.cli.output import Output
from provisioner.cli.run_context import OpenRun
from provisioner.console.plan import expected_time, plan_view
from provisioner.console.report import REMOVAL_MEANINGS, report_view
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.rollout.order import Orders, RemovalOrder
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.rollout.report import DONE as GOOD
from provisioner.domain.rollout.report import REPORT_SCHEMA, NodeState, RolloutReport
from provisioner.domain.rollout.run_spec import RunSpec, Verb
from provisioner.domain.self_service.publication import PublicationAction
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.protocols import Fleet, NodeFleet, SupportsBrokers, SupportsRemoval
from provisioner.workflow.rollout.leases import Pause, settle_leases, with_leases
from provisioner.workflow.rollout.run import Outcome, roll_out_locally, run_waves
from provisioner.workflow.rollout.waves import Gate, no_gate

_PUBLISHING: frozenset[Verb] = frozenset({"rollout", "upgrade"})
SERVED: frozenset[PublicationAction] = frozenset({"install", "update", "keep"})
_LOST: frozenset[NodeState] = frozenset({"unreachable", "unknown", "not_started"})
# Verbs whose seats without an address in the report are those that were taken down.
_TAKING_DOWN: frozenset[Verb] = frozenset({"remove", "seats move", "seats stop"})


def show_plan(output: Output, plan: Plan) -> None:
    """Print a plan; with -v every node with its whole difference."""
    output.show(plan_view(plan, whole=bool(output.verbose)))


def note_expected(directory: LabDirectory, lock: Lockfile, plan: Plan, output: Output) -> None:
    """Say how long the rollout of a plan is expected to take, by what earlier runs have measured."""
    registry = lock.all_images[0].lab.partition("/")[0]
    output.note(expected_time(plan, directory.lab.rollout.waves, registry, read_pace(directory.lab.name)))


def execute_run(run: OpenRun, run_spec: RunSpec, fleet: NodeFleet, *, breaks: str = "", gate: Gate = no_gate) -> int:
    """Execute a confirmed run and return its exit code.

    Raises ProblemError: `locked` where a run other than `breaks` has claimed one of the nodes (nothing was changed),
    `interrupted` at a second signal.
    """
    with interruptible(run, run_spec):
        outcome = run_waves(run_spec, fleet, run, breaks=breaks, gate=gate)
        outcome = settle_seats(run, run_spec, fleet, outcome)
    return report_outcome(run, run_spec, outcome)


def settle_seats(run: OpenRun, run_spec: RunSpec, fleet: SupportsBrokers, outcome: Outcome) -> Outcome:
    """Treat the leases of seats that people have started as the run treats work, after their new version is published.

    Return the outcome with them. Nodes that were lost, and those without self-service, are left out.
    """
    lost = {record.node for record in outcome.records if record.state in _LOST}
    served = [one.node for one in run_spec.plan.publications if one.action in SERVED and one.node not in lost]
    if run_spec.verb not in _PUBLISHING or not served or run.stop():
        return outcome
    pause = Pause(time.monotonic, time.sleep, run.stop, partial(_note, run))
    leases = settle_leases(fleet, run_spec.lab, served, run_spec.plan.when_busy, pause)
    return outcome._replace(records=with_leases(outcome.records, leases))


def _note(run: OpenRun, text: str) -> None:
    run.on_event(Event(phase="report", kind="note", text=text))


@contextmanager
def interruptible(run: OpenRun, run_spec: RunSpec) -> Iterator[None]:
    """Show progress and handle signals. Raises ProblemError (interrupted) at a second signal."""
    try:
        with run.changing_nodes():
            yield
    except KeyboardInterrupt:
        problem = Problem(
            "interrupted",
            f"run {run_spec.run} was interrupted before its end",
            "each node with a running job completes it or restores the old seat on its own; no other node was changed",
            f"provision resume {run_spec.place}",
        )
        raise ProblemError(problem, "interrupted") from None


def execute_locally(run: OpenRun, run_spec: RunSpec, fleet: Fleet) -> int:
    """Execute a run on the user's own machine, without a claim, and return its exit code."""
    with run.progress():
        outcome = roll_out_locally(run_spec, fleet, run)
    return report_outcome(run, run_spec, outcome)


def remove_locally(run: OpenRun, lab: str, fleet: SupportsRemoval, orders: Orders[RemovalOrder]) -> int:
    """Stop or remove seats of the user's own machine and return the exit code."""
    began = datetime.now(UTC)
    with run.progress():
        records = fleet.take_down(orders)
    report = RolloutReport(
        lab=lab, run=run.journal.run, started_at=began, ended_at=datetime.now(UTC), nodes=tuple(records.values())
    )
    return _publish(run, report, report_view(report, REMOVAL_MEANINGS))


def report_outcome(run: OpenRun, run_spec: RunSpec, outcome: Outcome) -> int:
    """Write and print the report of a run and return its exit code."""
    stopped = outcome.stopped
    if stopped and stopped.code == "interrupted":
        stopped = stopped.model_copy(update={"fix": f"provision resume {run_spec.place}"})
    report = RolloutReport(
        lab=run_spec.lab,
        run=run_spec.run,
        started_at=run_spec.began,
        ended_at=datetime.now(UTC),
        image=run_spec.plan.image,
        nodes=outcome.records,
        unplaced=run_spec.plan.unplaced,
        stopped=stopped,
    )
    return _publish(run, report, report_view(report, REMOVAL_MEANINGS if run_spec.verb in _TAKING_DOWN else {}))


def _publish(run: OpenRun, report: RolloutReport, view: RenderableType) -> int:
    """Write the report to the journal, print it, and return the exit code."""
    path = run.journal.keep("report", report)
    run.output.document(REPORT_SCHEMA, report)
    run.output.show(view)
    run.output.note(f"The record of this run: {path.parent}")
    return exit_code(report)


def exit_code(report: RolloutReport) -> int:
    """Return the exit code of a run: 0 only if every node is done, every person has one and no home is at fault."""
    if report.stopped and report.stopped.code == "interrupted":
        return INTERRUPTED
    if report.home_faults or report.unplaced:
        return FAILED
    if report.done:
        return DONE
    left = {record.state for record in report.nodes} - GOOD
    return DEFERRED if left == {"deferred"} else STALE if left == {"stale"} else FAILED
