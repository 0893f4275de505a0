"""`provision mirror tags`: the tags of a lab's mirror, each with its size and sync state."""

import click

from provisioner.adapters.lab.directory import read_lab
from provisioner.cli import wiring
from provisioner.cli.exit_codes import DONE
from provisioner.cli.options import example, fresh_option, lab_argument, platform_option, torch_option, with_output
from provisioner.cli.output import Output
from provisioner.cli.progress_display import show_progress
from provisioner.console.catalog import catalog_table
from provisioner.domain.compatibility.tags import may_fit


@click.command(epilog=example("provision mirror tags ai-lab --torch '>=2.8'"))
@lab_argument
@torch_option
@fresh_option
@platform_option
@with_output
def tags(lab: str, torch: str | None, fresh: bool, platform: str, output: Output) -> int:
    """List the tags of the lab's mirror that may serve it, each with size and state.

    Of a public mirror or a cache the names alone: it counts what it is asked, or fetches it.
    """
    directory = read_lab(lab)
    wish, spec = directory.lab.image, torch or directory.lab.image.torch
    with show_progress(output) as on_event, wiring.mirror(directory, on_event, fresh=fresh) as registry:
        look = registry.listed if wiring.is_sparing(directory) else registry.catalog
        catalog = look(directory.lab.mirror.repositories, platform, wanted=lambda tag: may_fit(tag, spec, wish.flavour))
    output.document("provisioner/catalog/1", catalog)
    output.say(catalog_table(catalog))
    return DONE
