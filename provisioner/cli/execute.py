"""What verbs that change nodes have in common: show the plan, act while the journal runs, report, end with a code."""

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from rich.console import RenderableType

from provisioner.adapters.state.journal import RunJournal
from provisioner.cli.exit_codes import DEFERRED, DONE, FAILED, INTERRUPTED, STALE
from provisioner.cli.output import Output
from provisioner.cli.progress_display import show_progress
from provisioner.cli.signals import handle_interrupts
from provisioner.console.plan import MAX_DIFF_LINES, plan_view
from provisioner.console.report import REMOVAL, report_view
from provisioner.domain.rollout.order import DownOrder
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.rollout.report import DONE as GOOD
from provisioner.domain.rollout.report import REPORT_SCHEMA, RolloutReport
from provisioner.domain.rollout.run_spec import RunSpec
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.protocols import Fleet, NodeFleet, SupportsRemoval
from provisioner.workflow.rollout.run import Outcome, roll_out, run_waves
from provisioner.workflow.rollout.waves import Gate, StopRequested, nothing

Work = Callable[[OnEvent, StopRequested], Outcome]


def show_plan(output: Output, plan: Plan) -> None:
    output.say(plan_view(plan, diff_lines=sys.maxsize if output.verbose else MAX_DIFF_LINES))


def execute_run(  # noqa: PLR0913  (what was agreed, on whom, how it is told and what may stop it)
    output: Output,
    journal: RunJournal,
    what: RunSpec,
    make_fleet: Callable[[OnEvent], NodeFleet],
    *,
    breaks: str = "",
    gate: Gate = nothing,
) -> int:
    """Do what was agreed; the exit code. `make_fleet` returns a fleet that sends its events to the function given.

    Raises ProblemError: `locked` where another run than `breaks` holds one of the nodes, and nothing was changed.
    """

    def work(on_event: OnEvent, stop_requested: StopRequested) -> Outcome:
        return run_waves(what, make_fleet(on_event), on_event, stop_requested, breaks=breaks, gate=gate)

    if what.nodes:
        journal.keep("undertaking", what)
    try:
        return follow(output, journal, what, work)
    except ProblemError as error:
        if error.ending == "locked":
            journal.forget("undertaking")
        raise


def follow(output: Output, journal: RunJournal, what: RunSpec, work: Work) -> int:
    """Work on the nodes of a lab, which ^C ends after what has begun; the exit code."""
    try:
        with show_progress(output) as show:
            on_event = journal.telling(show)
            with handle_interrupts(on_event) as stop_requested:
                outcome = work(on_event, stop_requested)
    except KeyboardInterrupt:
        raise ProblemError(_left_alone(what), "interrupted") from None
    return _report(output, journal, what, outcome)


def execute_locally(output: Output, journal: RunJournal, what: RunSpec, nodes: Callable[[OnEvent], Fleet]) -> int:
    """The same for one's own machine, on which nobody else has a say."""
    with show_progress(output) as show:
        on_event = journal.telling(show)
        outcome = roll_out(what, nodes(on_event), on_event, local=True)
    return _report(output, journal, what, outcome)


def remove_locally(
    output: Output,
    journal: RunJournal,
    lab: str,
    nodes: Callable[[OnEvent], SupportsRemoval],
    orders: Mapping[str, DownOrder],
) -> int:
    """The exit code."""
    began = datetime.now(UTC)
    with show_progress(output) as show:
        records = nodes(journal.telling(show)).take_down(orders)
    report = RolloutReport(
        lab=lab, run=journal.run, started_at=began, ended_at=datetime.now(UTC), nodes=tuple(records.values())
    )
    return _tell(output, journal, report, report_view(report, REMOVAL))


def _report(output: Output, journal: RunJournal, what: RunSpec, outcome: Outcome) -> int:
    stopped = outcome.stopped
    if stopped and stopped.code == "interrupted":
        stopped = stopped.model_copy(update={"fix": _resume(what)})
    report = RolloutReport(
        lab=what.lab,
        run=what.run,
        started_at=what.began,
        ended_at=datetime.now(UTC),
        image=what.plan.image,
        nodes=outcome.records,
        stopped=stopped,
    )
    return _tell(output, journal, report, report_view(report, REMOVAL if what.verb == "remove" else {}))


def _tell(output: Output, journal: RunJournal, report: RolloutReport, view: RenderableType) -> int:
    """The report, on the disk and to whoever asked."""
    kept = journal.keep("report", report)
    output.document(REPORT_SCHEMA, report)
    output.say(view)
    output.note(f"The record of this run: {kept.parent}")
    return code_of(report)


def code_of(report: RolloutReport) -> int:
    if report.done:
        return DONE
    if report.stopped and report.stopped.code == "interrupted":
        return INTERRUPTED
    left = {record.state for record in report.nodes} - GOOD
    return DEFERRED if left == {"deferred"} else STALE if left == {"stale"} else FAILED


def _resume(what: RunSpec) -> str:
    return f"provision resume {what.place}"


def _left_alone(what: RunSpec) -> Problem:
    return Problem(
        "interrupted",
        f"run {what.run} was left before its end",
        "each node that is at work ends on the old or the new by itself, never between; the others were not begun",
        _resume(what),
    )
