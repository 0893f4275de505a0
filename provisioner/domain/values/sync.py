"""How completely a mirror has an image, by a check of every part of it, not by a tag list."""

from enum import StrEnum

from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.reference import Digest


class SyncState(StrEnum):
    """What a mirror has of an image."""

    COMPLETE = "complete"  # manifest, config and every layer can be pulled
    PARTIAL = "partial"  # a layer or the config is missing
    ABSENT = "absent"  # the mirror does not have the tag
    COLD = "cold"  # a cache that would fetch it from its upstream first
    DENIED = "denied"
    LIMITED = "limited"  # too many requests; ask later
    STALE = "stale"  # the mirror's digest is not the upstream's
    NO_SUCH_SERVICE = "no_such_service"  # no registry answers at this address
    UNKNOWN = "unknown"


class SyncReport(Value):
    """The state of one image for one platform on one mirror. Sizes in bytes, compressed, as a pull transfers them."""

    reference: str
    platform: str
    state: SyncState
    digest: Digest | None = None  # of the manifest that an engine of this platform pulls
    bytes: int = 0
    bytes_missing: int = 0
    missing: tuple[Digest, ...] = ()
    problems: tuple[Problem, ...] = ()
