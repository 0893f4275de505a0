"""`provision facts`: the group of commands about the compatibility data."""

import click

from provisioner.cli.commands.facts.measure import measure
from provisioner.cli.commands.facts.show import show
from provisioner.cli.options import example


@click.group(epilog=example("provision facts show ai-lab"))
def facts() -> None:
    """Show the compatibility data; measure what the torch of an image was compiled for."""


facts.add_command(show)
facts.add_command(measure)
