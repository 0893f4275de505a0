"""A closer look at the few tags that would be chosen, until those that are chosen have had it."""

from collections.abc import Callable, Collection, Sequence

from provisioner.domain.registry.catalog import Catalog, Listing
from provisioner.domain.selection.selection import Selection
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncState
from provisioner.workflow.mirror.freshness import Freshness
from provisioner.workflow.protocols import Mirror

Pick = Callable[[Sequence[TaggedImage]], Selection]


def settled(catalog: Catalog, mirror: Mirror, platform: str, pick: Pick, freshness: Freshness | None = None) -> Catalog:
    """Only tags that would be chosen if they were there are asked for: their layers of a cache, their upstream of each.

    A cache says nothing of a tag's layers before they are asked for, and to ask is to make it fetch them; an upstream
    counts what it is asked.
    """
    asked: dict[str, Listing] = {}
    while True:
        catalog = catalog.replaced(asked)
        chosen = pick([hoped_for(listing, asked) for listing in catalog.listings]).tags
        unsure = [entry for entry in catalog.listings if entry.image.reference in chosen - asked.keys()]
        if not unsure:
            return catalog
        for entry in unsure:
            seen = _inspected(entry, mirror, platform) if entry.is_cold else entry
            asked[entry.image.reference] = seen if freshness is None else freshness.listing(seen)


def hoped_for(listing: Listing, asked: Collection[str]) -> TaggedImage:
    if listing.is_cold and listing.image.reference not in asked:
        return listing.image.model_copy(update={"sync": SyncState.COMPLETE})
    return listing.image


def _inspected(entry: Listing, mirror: Mirror, platform: str) -> Listing:
    return mirror.inspect(ImageReference.parse(entry.image.reference), platform)
