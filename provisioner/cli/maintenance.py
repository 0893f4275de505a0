"""Whether this is an hour at which a lab may be changed, and who took it upon them where it is not."""

from datetime import UTC, datetime

from provisioner.adapters.state.journal import RunJournal
from provisioner.cli.options import Overrides
from provisioner.domain.lab.calendar import Calendar
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import ProblemError
from provisioner.workflow.rollout.waves import Gate


def check_maintenance(calendar: Calendar, plan: Plan, overrides: Overrides, journal: RunJournal) -> Gate:
    """What to ask before every wave. Raises ProblemError (deferred) where the first one may not begin.

    A plan without changes is never refused.
    """
    problem = calendar.closed_problem(datetime.now(UTC)) if plan.pending else None
    if overrides.ignore_freeze is not None:
        if problem:
            journal.record(Event(phase="plan", kind="note", text=f"{problem.what}; ignored: {overrides.ignore_freeze}"))
        return lambda: None
    if problem:
        raise ProblemError(problem, "deferred")
    return is_maintenance_time(calendar)


def is_maintenance_time(calendar: Calendar) -> Gate:
    return lambda: calendar.closed_problem(datetime.now(UTC))
