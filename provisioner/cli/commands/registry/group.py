"""`provision registry`: the group of commands for the lab's own registry."""

import click

from provisioner.cli.commands.registry.gc import gc
from provisioner.cli.options import example


@click.group(epilog=example("provision registry gc ai-lab --dry-run"))
def registry() -> None:
    """Look after the lab's own registry. `provision prepare` sets it up."""


registry.add_command(gc)
