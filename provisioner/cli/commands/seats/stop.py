"""`provision seats stop` and `provision seats start`: stop the seat of a person, and let it run again."""

import click

from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.cli.commands.seats.lease_change import WantedChange, change_lease
from provisioner.cli.commands.seats.person_change import PersonChange, change_person, find_person
from provisioner.cli.options import (
    ChangeOptions,
    LeaseOptions,
    changes_nodes,
    changes_nodes_for_a_reason,
    example,
    lab_argument,
    person_argument,
)
from provisioner.domain.people.person import Person
from provisioner.domain.people.placement import Placements, stop
from provisioner.domain.rollout.leases import BrokerRequest
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.rollout.plan import PlanInputs


@click.command("stop", epilog=example('provision seats stop ai-lab anna --reason "fills the disk; asked on Monday"'))
@lab_argument
@person_argument
@changes_nodes_for_a_reason
def stop_seat(*, lab: str, person: str, reason: str, options: ChangeOptions) -> int:
    """Stop the seat of PERSON, and keep it stopped until `provision seats start`.

    Home, place and GPUs stay theirs. lab.lock and `provision seats list` have the reason. Exit 4 where the seat is in
    use, and nothing was changed.

    Of a PERSON who is not in the roster the seats that they have started are stopped at once, also while in use, and
    their leases end; they may start them again. `seats release` gives them the grace of their group.
    """
    directory = read_lab(lab)
    if directory.lab.self_service is not None and all(row.id != person for row in directory.people):
        return _stop_leased(directory, person, reason, options)
    row = find_person(directory, person)
    change = PersonChange(
        verb="seats stop",
        person=row,
        reason=reason,
        place=lambda inputs, _hosts, _probed: _stopped(inputs, row, reason),
        question=f"Stop the seat of {person}? Everything that runs in it ends.",
    )
    return change_person(directory, change, options)


def _stop_leased(directory: LabDirectory, person: str, reason: str, options: ChangeOptions) -> int:
    change = WantedChange(
        (person,),
        BrokerRequest(verb="stop", reason=reason),
        lambda names: f"Stop the seats of {names} at once? Everything that runs in them ends.",
    )
    return change_lease(directory, change, LeaseOptions(reason, options.yes, options.ansible, options.output))


@click.command("start", epilog=example("provision seats start ai-lab anna"))
@lab_argument
@person_argument
@changes_nodes
def start_seat(*, lab: str, person: str, options: ChangeOptions) -> int:
    """Start the seat of PERSON again after `provision seats stop`, and change it to what the lock says."""
    directory = read_lab(lab)
    row = find_person(directory, person)
    change = PersonChange(
        verb="seats start",
        person=row,
        reason=options.overrides.ignore_freeze or options.overrides.when_busy.reason,
        place=lambda inputs, _hosts, _probed: _stopped(inputs, row, ""),
        question=f"Start the seat of {person}?",
    )
    return change_person(directory, change, options)


def _stopped(inputs: PlanInputs, person: Person, reason: str) -> Placements:
    found = stop(inputs.lock.people, person, reason)
    if isinstance(found, Problem):
        raise ProblemError(found)
    return found
