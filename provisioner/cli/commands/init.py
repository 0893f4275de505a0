import click

from provisioner.adapters.lab.example import begin_lab
from provisioner.cli.exit_codes import DONE
from provisioner.cli.options import example, voiced
from provisioner.cli.output import Voice


@click.command(epilog=example("provision init ai-lab"))
@click.argument("lab", metavar="LAB")
@voiced
def init(lab: str, voice: Voice) -> int:
    """Begin a lab: write a commented hosts.yml and lab.yml into LAB.

    LAB is a directory, or a bare name for one below inventories/. What is there already is kept.
    """
    begun = begin_lab(lab)
    voice.document("provisioner/init/1", {"path": str(begun.path), "files": begun.files})
    for file, became in begun.files.items():
        voice.say(
            f"{became}: {begun.path / file}" if became == "written" else f"kept: {begun.path} has its {file} already"
        )
    voice.note(f"Next: fill them in, then look at the nodes: provision probe {lab}")
    return DONE
