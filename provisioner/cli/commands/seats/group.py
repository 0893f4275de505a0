"""`provision seats`: the group of commands about the seats of people."""

import click

from provisioner.cli.commands.seats.list import list_seats
from provisioner.cli.options import example


@click.group(epilog=example("provision seats list ai-lab --limit gpu1"))
def seats() -> None:
    """Show who sits where, with which GPUs."""


seats.add_command(list_seats)
