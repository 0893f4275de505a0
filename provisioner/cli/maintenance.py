"""Whether this is an hour at which a lab may be changed, and who took it upon them where it is not."""

from datetime import UTC, datetime

from provisioner.adapters.state.journal import RunJournal
from provisioner.cli.options import Consent
from provisioner.domain.lab.calendar import Calendar
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import CannotGoOn
from provisioner.workflow.rollout.waves import Hindrance


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
