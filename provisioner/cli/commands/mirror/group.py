"""`provision mirror`: the group of commands that look at a mirror."""

import click

from provisioner.cli.commands.mirror.check import check
from provisioner.cli.commands.mirror.status import status
from provisioner.cli.commands.mirror.tags import tags
from provisioner.cli.commands.mirror.wait import wait
from provisioner.cli.commands.mirror.wheel import wheel
from provisioner.cli.options import example


@click.group(epilog=example("provision mirror check registry.lab:5000/pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"))
def mirror() -> None:
    """Show what the mirror has, and how far: every layer is looked at, a list of tags alone is never believed."""


for _command in (tags, check, status, wait, wheel):
    mirror.add_command(_command)
