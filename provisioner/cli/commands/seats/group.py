"""`provision seats`: the group of commands about the seats of people."""

import click

from provisioner.cli.commands.seats.extend import extend_seats
from provisioner.cli.commands.seats.list import list_seats
from provisioner.cli.commands.seats.move import move_seat
from provisioner.cli.commands.seats.release import release_seats
from provisioner.cli.commands.seats.stop import start_seat, stop_seat
from provisioner.cli.options import example


@click.group(epilog=example("provision seats list ai-lab --limit gpu1"))
def seats() -> None:
    """Show who sits where, with which GPUs; move, stop and start the seat of one person; end or prolong leases."""


seats.add_command(list_seats)
seats.add_command(move_seat)
seats.add_command(stop_seat)
seats.add_command(start_seat)
seats.add_command(release_seats)
seats.add_command(extend_seats)
