"""Check the maintenance windows and freezes of a lab before and during a run."""

from datetime import UTC, datetime

from provisioner.cli.options import Overrides
from provisioner.domain.lab.calendar import Calendar
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.problem import ProblemError
from provisioner.workflow.rollout.waves import Gate, no_gate


def check_maintenance(calendar: Calendar, plan: Plan, overrides: Overrides, on_event: OnEvent) -> Gate:
    """Return the gate of the run's waves. Raises ProblemError (deferred) where the first wave may not start now.

    A plan without changes is never refused. An override is recorded with its reason.
    """
    problem = calendar.closed_problem(datetime.now(UTC)) if plan.changed_nodes else None
    if overrides.ignore_freeze is not None:
        if problem:
            on_event(Event(phase="plan", kind="note", text=f"{problem.what}; ignored: {overrides.ignore_freeze}"))
        return no_gate
    if problem:
        raise ProblemError(problem, "deferred")
    return maintenance_gate(calendar)


def maintenance_gate(calendar: Calendar) -> Gate:
    """Return a gate that is closed in a freeze and outside the maintenance windows."""
    return lambda: calendar.closed_problem(datetime.now(UTC))
