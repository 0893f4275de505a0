"""Published facts about known mirrors, each with a date and a source.

They are used for messages and request rates only; whether a mirror has an image is always checked.
"""

from typing import Literal

from provisioner.domain.lab.lab import MirrorKind
from provisioner.domain.values.model import Value


class MirrorProfile(Value):
    """Facts about one mirror. `hosts`: whole names, or `.suffix` for all names below it. `as_of`: last confirmed."""

    name: str
    hosts: tuple[str, ...]
    images: Literal["never", "discontinued", "limited", "on-demand", "yes", "unknown"]
    kind: MirrorKind | None = None
    public: bool = True
    note: str
    as_of: str
    source: str


class MirrorProfiles(Value):
    """The profiles of all known mirrors. `version` is the date of the data."""

    version: str
    profiles: tuple[MirrorProfile, ...] = ()

    def of(self, address: str) -> MirrorProfile | None:
        """Return the first profile that matches the host of `address` (host or host:port); None if unknown."""
        host = address.rpartition(":")[0] if ":" in address else address
        return next((p for p in self.profiles if any(_matches(pattern, host) for pattern in p.hosts)), None)


def _matches(pattern: str, host: str) -> bool:
    return host.endswith(pattern) if pattern.startswith(".") else host == pattern
