"""`provision remove`: remove seats from nodes."""

import click

from provisioner.adapters.lab.directory import read_lab
from provisioner.cli.options import ChangeOptions, changes_nodes, example, lab_argument
from provisioner.cli.seat_change import SeatChange, change_seats
from provisioner.console.text import count, fold_names
from provisioner.domain.rollout.run_spec import Rules
from provisioner.workflow.rollout.removal import plan_removal


@click.command(epilog=example("provision remove ai-lab --limit gpu01"))
@lab_argument
@changes_nodes
def remove(*, lab: str, options: ChangeOptions) -> int:
    """Remove seats with all their generations, and self-service. Homes, tokens and host keys stay on the nodes."""
    directory = read_lab(lab)
    lab_name, when_busy = directory.lab.name, options.overrides.when_busy
    user, has_roster = directory.lab.seat.user, directory.lab.people is not None
    has_people = has_roster or directory.lab.self_service is not None
    whose = f"all seats of {lab_name}" if has_people else f"the seat of {user}"
    change = SeatChange(
        verb="remove",
        plan=lambda _, probed: plan_removal(lab_name, user, probed, has_roster=has_roster, when_busy=when_busy),
        question=lambda plan: (
            f"Remove {whose} from {count(len(plan.changed_nodes), 'node')} ({fold_names(plan.changed_nodes)})?"
            " Everything that runs there ends."
        ),
        # A removal that fails on one node is no reason to leave the seat on the others.
        rules=Rules(max_failures="100%"),
    )
    return change_seats(directory, change, options)
