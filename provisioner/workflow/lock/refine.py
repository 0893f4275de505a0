"""Inspect the few tags that would be chosen, until every chosen tag has been inspected."""

from collections.abc import Callable, Collection, Sequence

from provisioner.domain.registry.catalog import Catalog, Listing
from provisioner.domain.selection.selection import Selection
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncState
from provisioner.workflow.mirror.freshness import Freshness
from provisioner.workflow.protocols import Mirror

Pick = Callable[[Sequence[TaggedImage]], Selection]


def refine_catalog(
    catalog: Catalog, mirror: Mirror, platform: str, pick: Pick, freshness: Freshness | None = None
) -> Catalog:
    """Return the catalog with the tags that would be chosen inspected: layers of cold tags, upstream of all of them.

    Other tags are not inspected: a cache would fetch their images, and an upstream counts requests.
    """
    inspected: dict[str, Listing] = {}
    while True:
        catalog = catalog.with_listings(inspected)
        chosen = pick([assume_complete(listing, inspected) for listing in catalog.listings]).tags
        unsure = [entry for entry in catalog.listings if entry.image.reference in chosen - inspected.keys()]
        if not unsure:
            return catalog
        for entry in unsure:
            reference = entry.image.reference
            found = mirror.inspect(ImageReference.parse(reference), platform) if entry.is_cold else entry
            inspected[reference] = found if freshness is None else freshness.listing(found)


def assume_complete(listing: Listing, inspected: Collection[str]) -> TaggedImage:
    """Return the image of a listing; a cold one that is not in `inspected` counts as complete."""
    if listing.is_cold and listing.image.reference not in inspected:
        return listing.image.model_copy(update={"sync": SyncState.COMPLETE})
    return listing.image
