"""What is known of the field's mirrors by hearsay, each word with a date and a source.

It gives words and manners (how politely to ask), never a verdict: each mirror is asked.
"""

from typing import Literal

from provisioner.domain.lab.lab import MirrorKind
from provisioner.domain.values.model import Value


class MirrorProfile(Value):
    """`hosts`: whole names, or `.suffix` for every name below it. `as_of`: when it was last known to be so."""

    name: str
    hosts: tuple[str, ...]
    images: Literal["never", "discontinued", "limited", "on-demand", "yes", "unknown"]
    kind: MirrorKind | None = None
    public: bool = True
    note: str
    as_of: str
    source: str


class MirrorProfiles(Value):
    version: str
    profiles: tuple[MirrorProfile, ...] = ()

    def of(self, address: str) -> MirrorProfile | None:
        host = address.rpartition(":")[0] if ":" in address else address
        return next((p for p in self.profiles if any(_names(pattern, host) for pattern in p.hosts)), None)


def _names(pattern: str, host: str) -> bool:
    return host.endswith(pattern) if pattern.startswith(".") else host == pattern
