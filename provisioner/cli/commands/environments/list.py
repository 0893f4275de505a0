"""`provision environments list`: the environments that lab.yml names, and those that lab.lock keeps."""

import click

from provisioner.adapters.lab.directory import read_lab
from provisioner.adapters.lab.lockfile import read_lock
from provisioner.cli.exit_codes import DONE
from provisioner.cli.options import example, lab_argument, with_output
from provisioner.cli.output import Output
from provisioner.console.environments import environments_view
from provisioner.domain.lab.environment_list import ENVIRONMENTS_SCHEMA, list_environments


@click.command("list", epilog=example("provision environments list ai-lab --json"))
@lab_argument
@with_output
def list_command(lab: str, output: Output) -> int:
    """Show each environment: its torch, images and nodes in lab.lock, and whether it is of lab.yml or was kept.

    No node is asked: what runs there is shown by `provision status`.
    """
    directory = read_lab(lab)
    found = list_environments(directory.lab, read_lock(directory.lock))
    output.document(ENVIRONMENTS_SCHEMA, found)
    output.show(environments_view(found))
    return DONE
