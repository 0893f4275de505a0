"""What verbs that change nodes have in common: show the plan, act while the journal runs, report, end with a code."""

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from rich.console import RenderableType

from provisioner.adapters.state.journal import RunJournal
from provisioner.cli.exit_codes import DEFERRED, DONE, FAILED, INTERRUPTED, STALE
from provisioner.cli.output import Voice
from provisioner.cli.progress_display import watching
from provisioner.cli.signals import braking
from provisioner.console.plan import MAX_DIFF_LINES, plan_view
from provisioner.console.report import REMOVAL, report_view
from provisioner.domain.rollout.order import DownOrder
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.rollout.report import DONE as GOOD
from provisioner.domain.rollout.report import REPORT_SCHEMA, RolloutReport
from provisioner.domain.rollout.run_spec import Undertaking
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.problem import CannotGoOn, Problem
from provisioner.workflow.protocols import Crew, Fleet, TakesDown
from provisioner.workflow.rollout.run import Outcome, carry_through, roll_out
from provisioner.workflow.rollout.waves import Halted, Hindrance, nothing

Work = Callable[[OnEvent, Halted], Outcome]


def show_plan(voice: Voice, plan: Plan) -> None:
    voice.say(plan_view(plan, diff_lines=sys.maxsize if voice.verbose else MAX_DIFF_LINES))


def carry_out(  # noqa: PLR0913  (what was agreed, on whom, how it is told and what may stop it)
    voice: Voice,
    journal: RunJournal,
    what: Undertaking,
    crew: Callable[[OnEvent], Crew],
    *,
    breaks: str = "",
    hindrance: Hindrance = nothing,
) -> int:
    """Do what was agreed; the exit code. `crew` makes nodes that tell their news to what they are given.

    Raises CannotGoOn: `locked` where another run than `breaks` holds one of the nodes, and nothing was changed.
    """

    def work(on_event: OnEvent, halted: Halted) -> Outcome:
        return carry_through(what, crew(on_event), on_event, halted, breaks=breaks, hindrance=hindrance)

    if what.nodes:
        journal.keep("undertaking", what)
    try:
        return follow(voice, journal, what, work)
    except CannotGoOn as error:
        if error.ending == "locked":
            journal.forget("undertaking")
        raise


def follow(voice: Voice, journal: RunJournal, what: Undertaking, work: Work) -> int:
    """Work on the nodes of a lab, which ^C ends after what has begun; the exit code."""
    try:
        with watching(voice) as show:
            on_event = journal.telling(show)
            with braking(on_event) as halted:
                outcome = work(on_event, halted)
    except KeyboardInterrupt:
        raise CannotGoOn(_left_alone(what), "interrupted") from None
    return _report(voice, journal, what, outcome)


def carry_out_here(voice: Voice, journal: RunJournal, what: Undertaking, nodes: Callable[[OnEvent], Fleet]) -> int:
    """The same for one's own machine, on which nobody else has a say."""
    with watching(voice) as show:
        on_event = journal.telling(show)
        outcome = roll_out(what, nodes(on_event), on_event, local=True)
    return _report(voice, journal, what, outcome)


def take_down_here(
    voice: Voice,
    journal: RunJournal,
    lab: str,
    nodes: Callable[[OnEvent], TakesDown],
    orders: Mapping[str, DownOrder],
) -> int:
    """The exit code."""
    began = datetime.now(UTC)
    with watching(voice) as show:
        records = nodes(journal.telling(show)).take_down(orders)
    report = RolloutReport(
        lab=lab, run=journal.run, started_at=began, ended_at=datetime.now(UTC), nodes=tuple(records.values())
    )
    return _tell(voice, journal, report, report_view(report, REMOVAL))


def _report(voice: Voice, journal: RunJournal, what: Undertaking, outcome: Outcome) -> int:
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
    return _tell(voice, journal, report, report_view(report, REMOVAL if what.verb == "remove" else {}))


def _tell(voice: Voice, journal: RunJournal, report: RolloutReport, view: RenderableType) -> int:
    """The report, on the disk and to whoever asked."""
    kept = journal.keep("report", report)
    voice.document(REPORT_SCHEMA, report)
    voice.say(view)
    voice.note(f"The record of this run: {kept.parent}")
    return code_of(report)


def code_of(report: RolloutReport) -> int:
    if report.done:
        return DONE
    if report.stopped and report.stopped.code == "interrupted":
        return INTERRUPTED
    left = {record.state for record in report.nodes} - GOOD
    return DEFERRED if left == {"deferred"} else STALE if left == {"stale"} else FAILED


def _resume(what: Undertaking) -> str:
    return f"provision resume {what.place}"


def _left_alone(what: Undertaking) -> Problem:
    return Problem(
        code="interrupted",
        what=f"run {what.run} was left before its end",
        why="each node that is at work ends on the old or the new by itself, never between; the others were not begun",
        fix=_resume(what),
    )
