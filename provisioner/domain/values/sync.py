"""How far a mirror has an image: never guessed from a tag list, always from a look at every part."""

from enum import StrEnum

from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.reference import Digest


class SyncState(StrEnum):
    COMPLETE = "complete"  # manifest, config and every layer can be had now
    PARTIAL = "partial"  # some layer or the config cannot
    ABSENT = "absent"  # the mirror does not know the tag
    COLD = "cold"  # a cache that would fetch it from its upstream first
    DENIED = "denied"
    LIMITED = "limited"  # too many requests; ask later
    STALE = "stale"  # the mirror's digest is not the upstream's
    NO_SUCH_SERVICE = "no_such_service"  # nothing there speaks the registry protocol
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
