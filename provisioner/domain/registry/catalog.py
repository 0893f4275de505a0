"""What a mirror offers: its tags, each with digest, facts of its config and sync state."""

from collections.abc import Mapping
from datetime import datetime
from typing import Self

from provisioner.domain.registry.better_tag import NextBest
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.sync import SyncReport, SyncState


class Listing(Value):
    """One tag of the mirror, as looked at."""

    image: TaggedImage
    report: SyncReport

    @property
    def is_cold(self) -> bool:
        return self.report.state is SyncState.COLD


class Catalog(Value):
    """`listings` are in the mirror's own order; selection never depends on it."""

    mirror: str
    checked_at: datetime
    listings: tuple[Listing, ...] = ()
    problems: tuple[Problem, ...] = ()  # of whole repositories that could not be listed
    next_best: NextBest | None = None  # where somebody has looked for one

    def replaced(self, looked_at: Mapping[str, Listing]) -> Self:
        """The same catalog with some listings, by reference, as they were found on a closer look."""
        listings = tuple(looked_at.get(entry.image.reference, entry) for entry in self.listings)
        return self.model_copy(update={"listings": listings})
