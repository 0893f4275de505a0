"""`provision seats release`: take back the seats that people have started, after a grace."""

import click

from provisioner.adapters.lab.directory import read_lab
from provisioner.cli.commands.seats.lease_change import WantedChange, change_lease
from provisioner.cli.options import LeaseOptions, changes_leases, example, lab_argument, people_argument
from provisioner.domain.rollout.leases import BrokerRequest


@click.command("release", epilog=example('provision seats release ai-lab anna bob --reason "course on Monday"'))
@lab_argument
@people_argument
@changes_leases
def release_seats(*, lab: str, people: tuple[str, ...], options: LeaseOptions) -> int:
    """End the leases of PERSON... after the grace of their group; they read the reason in their seats at once.

    They cannot prolong them then; `seats extend` takes it back. Their files stay. `seats stop` is without a grace. Of a
    person with seats on several nodes all are released; --limit names nodes. Exit 1 where a node did not answer, or a
    seat was not released.
    """
    change = WantedChange(
        people,
        BrokerRequest(verb="release", reason=options.reason),
        lambda names: f"Take back the seats of {names}? They stop after the grace of their groups.",
    )
    return change_lease(read_lab(lab), change, options)
