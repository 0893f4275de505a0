"""`provision init`: create the directory of a lab."""

import shlex

import click

from provisioner.adapters.lab.example import create_lab
from provisioner.cli.exit_codes import DONE
from provisioner.cli.options import example, with_output
from provisioner.cli.output import Output


@click.command(epilog=example("provision init ai-lab"))
@click.argument("lab", metavar="LAB")
@with_output
def init(lab: str, output: Output) -> int:
    """Create a lab: write a commented hosts.yml and lab.yml into LAB.

    LAB is a directory, or a bare name for one below inventories/. Existing files are kept.
    """
    begun = create_lab(lab)
    output.document("provisioner/init/1", {"path": str(begun.path), "files": begun.files})
    for file, state in begun.files.items():
        output.show(f"{state}: {begun.path / file}")
    output.note(f"Next: edit them, then probe the nodes: provision probe {shlex.quote(lab)}")
    return DONE
