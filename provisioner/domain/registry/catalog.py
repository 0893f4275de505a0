"""The tags that a mirror offers, each with its digest, the facts of its config and its sync state."""

from collections.abc import Mapping
from datetime import datetime
from typing import Self

from provisioner.domain.registry.better_tag import NextBest
from provisioner.domain.values.image import ImageConfig, TaggedImage
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.sync import SyncReport, SyncState


class Listing(Value):
    """One tag of the mirror and the result of its check. `config`: None if it was not read."""

    image: TaggedImage
    report: SyncReport
    config: ImageConfig | None = None

    @property
    def is_cold(self) -> bool:
        """Whether the mirror is a cache that would first fetch the image from its upstream."""
        return self.report.state is SyncState.COLD


class Catalog(Value):
    """The listings of a mirror, in the mirror's own order. The selection does not depend on this order."""

    mirror: str
    checked_at: datetime
    listings: tuple[Listing, ...] = ()
    problems: tuple[Problem, ...] = ()  # of whole repositories that could not be listed
    next_best: NextBest | None = None  # None also where no better tag was searched for

    def with_listings(self, checked: Mapping[str, Listing]) -> Self:
        """Return the catalog with the listings of `checked` (by reference) in place of the earlier ones."""
        listings = tuple(checked.get(entry.image.reference, entry) for entry in self.listings)
        return self.model_copy(update={"listings": listings})
