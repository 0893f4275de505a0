import click

from provisioner.adapters.lab.example import begin_lab
from provisioner.cli.exit_codes import DONE
from provisioner.cli.options import example, with_output
from provisioner.cli.output import Output


@click.command(epilog=example("provision init ai-lab"))
@click.argument("lab", metavar="LAB")
@with_output
def init(lab: str, output: Output) -> int:
    """Begin a lab: write a commented hosts.yml and lab.yml into LAB.

    LAB is a directory, or a bare name for one below inventories/. What is there already is kept.
    """
    begun = begin_lab(lab)
    output.document("provisioner/init/1", {"path": str(begun.path), "files": begun.files})
    for file, became in begun.files.items():
        output.say(
            f"{became}: {begun.path / file}" if became == "written" else f"kept: {begun.path} has its {file} already"
        )
    output.note(f"Next: fill them in, then look at the nodes: provision probe {lab}")
    return DONE
