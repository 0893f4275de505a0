"""What rollout, remove and me have in common: show the plan, act while the journal runs, report, end with a code."""

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Literal, Protocol

from rich.console import RenderableType

from provisioner.adapters.journal import RunJournal, open_run
from provisioner.cli.exits import DEFERRED, DONE, FAILED
from provisioner.cli.voice import Voice
from provisioner.cli.watch import watching
from provisioner.console.plan import MAX_DIFF_LINES, plan_view
from provisioner.console.report import REMOVAL, report_view
from provisioner.domain.event import OnEvent
from provisioner.domain.order import Order
from provisioner.domain.plan import Plan
from provisioner.domain.report import DONE as GOOD
from provisioner.domain.report import REPORT_SCHEMA, NodeRecord, RolloutReport
from provisioner.workflow.hands import Fleet
from provisioner.workflow.plan import Prepared
from provisioner.workflow.rollout import Hindrance, roll_out

Act = Literal["remove", "stop"]


class TakesDown(Protocol):
    """The part of a fleet that takes seats (node -> name) down."""

    def remove(self, seats: Mapping[str, str], run: str, act: Act) -> Mapping[str, NodeRecord]: ...


def show_plan(voice: Voice, plan: Plan) -> None:
    voice.say(plan_view(plan, diff_lines=sys.maxsize if voice.verbose else MAX_DIFF_LINES))


def carry_out(  # noqa: PLR0913  (what was agreed, on whom, and how it is told)
    voice: Voice,
    journal: RunJournal,
    prepared: Prepared,
    orders: Mapping[str, Order],
    nodes: Callable[[OnEvent], Fleet],
    *,
    local: bool = False,
    hindrance: Hindrance = lambda: None,
) -> int:
    """Roll out what was shown; the exit code. `nodes` makes a fleet that tells its news to what it is given."""
    plan, began = prepared.plan, datetime.now(UTC)
    with watching(voice) as show:
        on_event = journal.telling(show)
        records = roll_out(prepared, orders, nodes(on_event), on_event, local=local, hindrance=hindrance)
    report = RolloutReport(
        lab=plan.lab, run=journal.run, started_at=began, ended_at=datetime.now(UTC), image=plan.image, nodes=records
    )
    return _tell(voice, journal, report, report_view(report))


def take_down(voice: Voice, lab: str, nodes: Callable[[OnEvent], TakesDown], seats: Mapping[str, str], act: Act) -> int:
    """`seats`: node -> name of the seat; the exit code."""
    journal, began = open_run(lab), datetime.now(UTC)
    with watching(voice) as show:
        records = nodes(journal.telling(show)).remove(seats, journal.run, act)
    report = RolloutReport(
        lab=lab, run=journal.run, started_at=began, ended_at=datetime.now(UTC), nodes=tuple(records.values())
    )
    return _tell(voice, journal, report, report_view(report, REMOVAL))


def _tell(voice: Voice, journal: RunJournal, report: RolloutReport, view: RenderableType) -> int:
    """The report, on the disk and to whoever asked."""
    kept = journal.keep("report", report)
    voice.document(REPORT_SCHEMA, report)
    voice.say(view)
    voice.note(f"The record of this run: {kept.parent}")
    if report.done:
        return DONE
    left = {record.state for record in report.nodes} - GOOD
    return DEFERRED if left == {"deferred"} else FAILED
