"""Whether this is an hour at which a lab may be changed, and who took it upon them where it is not."""

from datetime import UTC, datetime

from provisioner.adapters.journal import RunJournal
from provisioner.cli.options import Consent
from provisioner.domain.calendar import Calendar
from provisioner.domain.event import Event
from provisioner.domain.plan import Plan
from provisioner.domain.problem import CannotGoOn
from provisioner.workflow.course import Hindrance


def hold_to_hours(calendar: Calendar, plan: Plan, consent: Consent, journal: RunJournal) -> Hindrance:
    """What to ask before every wave. Raises CannotGoOn (deferred) where the first one may not begin.

    A plan without changes is never refused.
    """
    problem = calendar.hindrance(datetime.now(UTC)) if plan.pending else None
    if consent.ignore_freeze is not None:
        if problem:
            journal.record(Event(phase="plan", kind="note", text=f"{problem.what}; ignored: {consent.ignore_freeze}"))
        return lambda: None
    if problem:
        raise CannotGoOn(problem, "deferred")
    return within_hours(calendar)


def within_hours(calendar: Calendar) -> Hindrance:
    return lambda: calendar.hindrance(datetime.now(UTC))
