"""`provision seats list`: who sits where, with which cards, in which state and until when."""

import click

from provisioner.adapters.lab.directory import read_lab
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.options import AnsibleOptions, example, lab_argument, with_ansible_options, with_output
from provisioner.cli.output import Output
from provisioner.cli.plan_context import read_seats
from provisioner.console.seats import seats_view
from provisioner.domain.rollout.seat_list import SEATS_SCHEMA, build_seat_list


@click.command("list", epilog=example("provision seats list ai-lab --limit gpu1"))
@lab_argument
@with_ansible_options
@with_output
def list_seats(lab: str, ansible: AnsibleOptions, output: Output) -> int:
    """Show who sits where, with which GPUs, in which state and until when.

    Of more than 50 seats those that are healthy are only counted for each node; -v shows a row for each. Exit 1 where
    a node did not answer or cannot have a seat.
    """
    context = read_seats(read_lab(lab), ansible, output)
    listing = build_seat_list(context.status, context.people, context.probed, context.places)
    output.document(SEATS_SCHEMA, listing)
    output.show(seats_view(listing, verbose=output.verbose > 0))
    return FAILED if listing.unread else DONE
