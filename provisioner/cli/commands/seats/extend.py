"""`provision seats extend`: give more time to the seats that people have started."""

import click

from provisioner.adapters.lab.directory import read_lab
from provisioner.cli.commands.seats.lease_change import WantedChange, change_lease
from provisioner.cli.options import LeaseOptions, changes_leases, example, lab_argument, people_argument
from provisioner.domain.rollout.leases import MOST_HOURS, BrokerRequest


@click.command(
    "extend", epilog=example('provision seats extend ai-lab anna --hours 72 --reason "thesis, asked on Monday"')
)
@lab_argument
@people_argument
@click.option(
    "--hours",
    required=True,
    metavar="N",
    type=click.IntRange(1, MOST_HOURS),
    help="At least so many hours are left from now on.",
)
@changes_leases
def extend_seats(*, lab: str, people: tuple[str, ...], hours: int, options: LeaseOptions) -> int:
    """Prolong the leases of PERSON... to at least N hours from now, above the ceiling of their group if need be.

    It takes a release back, and is done also while others wait for a GPU. Of a person with seats on several nodes all
    are prolonged; --limit names nodes. Exit 1 where a node did not answer, or a lease was not prolonged.
    """
    change = WantedChange(
        people,
        BrokerRequest(verb="extend", hours=hours, reason=options.reason),
        lambda names: f"Prolong the leases of {names} to {hours} h from now?",
    )
    return change_lease(read_lab(lab), change, options)
