"""`provision mirror tags`: list the tags of a lab's mirror with size and sync state, newest first."""

import click

from provisioner.adapters.lab import compatibility_data
from provisioner.adapters.lab.directory import read_lab
from provisioner.cli import wiring
from provisioner.cli.exit_codes import DONE
from provisioner.cli.options import example, fresh_option, lab_argument, platform_option, torch_option, with_output
from provisioner.cli.output import Output
from provisioner.cli.progress_display import show_progress
from provisioner.console.catalog import catalog_table
from provisioner.domain.compatibility.tags import may_match, read_facts
from provisioner.domain.forecast.mirror_status import newest_first


@click.command(epilog=example("provision mirror tags ai-lab --torch '>=2.8'"))
@lab_argument
@torch_option
@fresh_option
@platform_option
@with_output
def tags(lab: str, torch: str | None, fresh: bool, platform: str, output: Output) -> int:
    """List the tags of the lab's mirror that may serve it, each with size and state, newest first.

    A public mirror that counts requests and a cache are only listed: their images are not inspected.
    """
    directory = read_lab(lab)
    data = compatibility_data.load_for_lab(directory.path)
    flavour, spec = directory.lab.image.flavour, torch or directory.lab.image.torch
    with show_progress(output) as on_event, wiring.mirror(directory, on_event, fresh=fresh) as registry:
        list_tags = registry.listed if wiring.is_metered(directory) else registry.catalog
        catalog = list_tags(
            directory.lab.mirror.repositories, platform, wanted=lambda tag: may_match(tag, spec, flavour)
        )
    listings = {listing.image.reference: listing for listing in catalog.listings}
    newest = newest_first(read_facts(listing.image, data) for listing in listings.values())
    catalog = catalog.model_copy(update={"listings": tuple(listings[facts.reference] for facts in newest)})
    output.document("provisioner/catalog/1", catalog)
    output.show(catalog_table(catalog))
    return DONE
