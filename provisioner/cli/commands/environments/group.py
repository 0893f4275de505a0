"""`provision environments`: the group of commands about the named environments of a lab."""

import click

from provisioner.cli.commands.environments.list import list_command
from provisioner.cli.commands.environments.remove import remove_command
from provisioner.cli.options import example


@click.group(epilog=example("provision environments list ai-lab"))
def environments() -> None:
    """Show the environments of a lab; remove one that `provision upgrade --keep-as` has kept."""


environments.add_command(list_command)
environments.add_command(remove_command)
