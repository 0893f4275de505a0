from pathlib import Path
from typing import get_args

import click

from provisioner.adapters.lab.compatibility_data import load, load_with
from provisioner.adapters.lab.select_input import read_nodes, read_tags
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.options import data_option, example, torch_option, with_output
from provisioner.cli.output import Output
from provisioner.console.selection import selection_view
from provisioner.domain.selection.selection import SELECTION_SCHEMA
from provisioner.domain.selection.selection import select as choose
from provisioner.domain.values.image import Flavour


@click.command(epilog=example("provision select --nodes nodes.json --tags tags.json --json"))
@click.option("--nodes", required=True, metavar="FILE", help="JSON: what the nodes are; - is stdin.")
@click.option("--tags", required=True, metavar="FILE", help="JSON: which tags there are, and how far; - is stdin.")
@torch_option
@click.option("--flavour", type=click.Choice(get_args(Flavour)), default="runtime", show_default=True)
@data_option
@with_output
def select(  # noqa: PLR0913  (each is a flag)
    *, nodes: str, tags: str, torch: str | None, flavour: Flavour, data_file: Path | None, output: Output
) -> int:
    """Choose an image for nodes from files alone, without a lab, a network or a GPU.

    What `provision probe LAB --json` prints is such a file of nodes.

    Exit 1 where some node is served by no tag.
    """
    if nodes == tags == "-":
        raise click.UsageError("--nodes and --tags cannot both be stdin")
    data = load_with(data_file) if data_file else load()
    selection = choose(read_nodes(nodes), read_tags(tags), data, torch=torch, flavour=flavour)
    output.document(SELECTION_SCHEMA, selection.to_json())
    output.say(selection_view(selection, output.out.width))
    return DONE if all(choice.tag for choice in selection.nodes.values()) else FAILED
