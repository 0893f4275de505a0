"""`provision seats move`: give a person a seat on another node."""

import click

from provisioner.adapters.lab.directory import read_lab
from provisioner.cli.commands.seats.person_change import PersonChange, change_person, find_person
from provisioner.cli.options import ChangeOptions, changes_nodes_for_a_reason, example, lab_argument, person_argument
from provisioner.workflow.rollout.one_person import place_on


@click.command("move", epilog=example('provision seats move ai-lab anna gpu2 --reason "gpu1 is repaired"'))
@lab_argument
@person_argument
@click.argument("node", metavar="NODE")
@changes_nodes_for_a_reason
def move_seat(*, lab: str, person: str, node: str, reason: str, options: ChangeOptions) -> int:
    """Move the seat of PERSON to NODE, with as many GPUs of their own as the roster says.

    The seat on NODE is set up and verified before the old one is stopped; if that fails, the old one runs on. A home on
    the disk of the old node does not move along. lab.lock remembers the place; the column node of the roster must allow
    it. Exit 4 where the old seat is in use, and nothing was changed.
    """
    directory = read_lab(lab)
    row = find_person(directory, person)
    change = PersonChange(
        verb="seats move",
        person=row,
        reason=reason,
        place=lambda inputs, hosts, probed: place_on(inputs, hosts, probed, row, node),
        question=f"Move {person} to {node}? What runs in their seat elsewhere ends, and their home does not move.",
    )
    return change_person(directory, change, options)
