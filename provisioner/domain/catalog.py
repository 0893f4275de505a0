"""What a mirror offers: its tags, each with digest, facts of its config and sync state."""

from datetime import datetime

from provisioner.domain.image import TaggedImage
from provisioner.domain.model import Value
from provisioner.domain.problem import Problem
from provisioner.domain.sync import SyncReport


class Listing(Value):
    """One tag of the mirror, as looked at."""

    image: TaggedImage
    report: SyncReport


class Catalog(Value):
    """`listings` are in the mirror's own order; selection never depends on it."""

    mirror: str
    checked_at: datetime
    listings: tuple[Listing, ...] = ()
    problems: tuple[Problem, ...] = ()  # of whole repositories that could not be listed

    def listing(self, reference: str) -> Listing | None:
        return next((entry for entry in self.listings if entry.image.reference == reference), None)
