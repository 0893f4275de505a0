"""What move, stop and start share: the seats of one person are planned, confirmed and changed, with the reason kept."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import click

from provisioner.adapters.lab.directory import LabDirectory
from provisioner.adapters.user import holder
from provisioner.cli.commands.rollout import (
    PlannedRun,
    build_run_spec_from_plan,
    keep_places,
    recheck_planned,
    set_disk_limits,
)
from provisioner.cli.execute import execute_run, show_plan
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.maintenance import check_maintenance
from provisioner.cli.options import ChangeOptions
from provisioner.cli.plan_context import PlanContext, require_lock
from provisioner.cli.run_context import OpenRun, open_run_context
from provisioner.cli.wiring import open_fleet, plan_inputs
from provisioner.domain.people.person import Person
from provisioner.domain.people.placement import Placements
from provisioner.domain.rollout.run_spec import Rules, Verb
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.spelling import did_you_mean
from provisioner.workflow.probe import probe
from provisioner.workflow.protocols import Fleet, Host, Probed
from provisioner.workflow.rollout.claims import refuse_claimed
from provisioner.workflow.rollout.one_person import build_person_plan
from provisioner.workflow.rollout.plan import PlanInputs


class PersonChange(NamedTuple):
    """A change of the place of one person. `place` returns the places of everybody with it, or raises ProblemError.

    `reason`: as the admin gave it; empty where the verb needs none. `question` asks for confirmation.
    """

    verb: Verb
    person: Person
    reason: str
    place: Callable[[PlanInputs, Sequence[Host], Probed], Placements]
    question: str


def find_person(directory: LabDirectory, person: str) -> Person:
    """Return the row of a person. Raises ProblemError (usage) where the roster has none."""
    found = next((row for row in directory.people if row.id == person), None)
    if found is None:
        raise ProblemError(_no_such_person(directory, person), "usage")
    return found


def change_person(directory: LabDirectory, change: PersonChange, options: ChangeOptions) -> int:
    """Probe, plan the seats of this person alone, confirm, write lab.lock and execute. Return the exit code.

    The seat on the node of their place is set up and verified first; only then are others of theirs stopped.
    """
    if options.ansible.limit is not None:
        raise click.UsageError("the seats of a person are looked for on all nodes: --limit is not accepted")
    output, breaks = options.output, options.run.break_lock
    with (
        open_run_context(directory.lab.name, change.verb, breaks, output) as run,
        open_fleet(directory, options.ansible, output.verbose, run.on_event) as fleet,
    ):
        run.on_event(_on_record(change))
        planned = _plan(directory, change, run, fleet, options)
        plan, name = planned.plan, run.journal.run
        gate = check_maintenance(directory.lab.rollout.calendar, plan, options.overrides, run.on_event)
        refuse_claimed(planned.context.probed, planned.claims(name, change.verb), breaks)
        is_change = bool(plan.pending) or (plan.places != planned.lock.people and not plan.deferred)
        if is_change and not (options.yes or output.confirm(change.question)):
            output.note("Nothing was changed.")
            return FAILED
        recheck_planned(planned, run)
        if is_change:
            keep_places(planned, output)
        # One node after the other; their node answered, so only one that they leave may be unreachable beforehand.
        rules = Rules(("1", "100%"), allow_unreachable=len(plan.steps), pulls=directory.lab.rollout.pull_concurrency)
        run_spec = build_run_spec_from_plan(planned, name, options, change.verb, rules)
        code = execute_run(run, run_spec, fleet, breaks=breaks, gate=gate)
        set_disk_limits(planned, run, fleet)
    if is_change and code != DONE:
        output.note(_left_to_do(planned, change.person.id))
    return code


def _plan(
    directory: LabDirectory, change: PersonChange, run: OpenRun, fleet: Fleet, options: ChangeOptions
) -> PlannedRun:
    """Probe all nodes, build the plan and show it, where it has a step."""
    lock, person = require_lock(directory), change.person
    with run.progress():
        probed, hosts = probe(fleet, run.on_event), fleet.hosts()
        inputs = plan_inputs(directory, lock, None)
        placements = change.place(inputs, hosts, probed)
        when_busy = options.overrides.when_busy
        prepared = build_person_plan(inputs, placements, person, hosts, probed, when_busy=when_busy)
    run.journal.keep("plan", prepared.plan)
    if prepared.plan.steps:
        show_plan(run.output, prepared.plan)
    else:
        run.output.note(f"No seat of {person.id} runs, and none is set up.")
    return PlannedRun(directory, lock, PlanContext(probed, prepared))


def _left_to_do(planned: PlannedRun, person: str) -> str:
    """Return what the lock has after a run that did not do everything, and how to go on or back."""
    path, before, now = planned.directory.path, planned.lock.people.get(person), planned.plan.places[person]
    back = ""
    if before is not None and before.node != now.node:
        back = f"; to take it back: provision seats move {path} {person} {before.node} --reason TEXT"
    return f"{planned.directory.lock} has the change, and `provision rollout {path}` does what is left of it{back}."


def _on_record(change: PersonChange) -> Event:
    """Return the event that keeps who asked for the change, and why."""
    data = {"verb": change.verb, "person": change.person.id, "reason": change.reason, "holder": holder()}
    because = f": {change.reason}" if change.reason else ""
    return Event(phase="plan", kind="note", text=f"{change.verb} {change.person.id}{because}", data=data)


def _no_such_person(directory: LabDirectory, person: str) -> Problem:
    return Problem(
        "no_such_person",
        f'no row of the roster has the id "{person}"{did_you_mean(person, [row.id for row in directory.people])}',
        "seats are moved, stopped and started by the ids of people",
        f"see `provision seats list {directory.path}` for the ids; the seat of who is not in the roster is stopped by "
        "`provision rollout`",
    )
