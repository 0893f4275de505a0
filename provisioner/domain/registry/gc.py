"""Which images of a lab's registry are still wanted by anybody, and what is won by removing the others."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import Field

from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.registry.manifest import Blob
from provisioner.domain.values.model import Document, Value
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.reference import Digest

GC_SCHEMA: Literal["provisioner/sweep/1"] = "provisioner/sweep/1"


class HeldImage(Value):
    """A manifest in the registry. `children`: digests of an index's own manifests, which stay with it."""

    digest: Digest
    tags: tuple[str, ...]
    blobs: tuple[Blob, ...] = ()
    children: tuple[Digest, ...] = ()

    @property
    def size(self) -> int:
        """Bytes, those that it shares with other images included."""
        return sum(blob.size for blob in self.blobs)


class KeptImage(Value):
    """`because`: the locks that name it, and the nodes that have it or could go back to it."""

    digest: Digest
    tags: tuple[str, ...]
    bytes: int
    because: tuple[str, ...]


class RemovedImage(Value):
    digest: Digest
    tags: tuple[str, ...]
    bytes: int


class GarbageReport(Document):
    """`bytes`: what the removed images hold alone in this repository. `freed`: what left the disk, None where unknown.

    `silent`: nodes that could not be asked, and what runs there was not kept for their sake.
    """

    schema_: Literal["provisioner/sweep/1"] = Field(default=GC_SCHEMA, alias="schema")
    lab: str
    registry: str
    repository: str
    dry_run: bool
    kept: tuple[KeptImage, ...] = ()
    removed: tuple[RemovedImage, ...] = ()
    bytes: int = 0
    freed: int | None = None
    silent: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


Wanted = dict[Digest, list[str]]


def wanted(locks: Mapping[str, Lockfile], nodes: Iterable[NodeFacts]) -> Wanted:
    """Digest -> who wants it. Whatever the registry is called there: an image that is kept for nothing does no harm."""
    found: Wanted = {}
    for name, lock in locks.items():
        for image in lock.images:
            _want(found, image.lab, f"lock {name}")
            _want(found, image.base, f"lock {name}")
    for node in nodes:
        for reference in (*node.kept, *(seat.image for seat in node.seats)):
            _want(found, reference, f"node {node.name}")
    return found


def has_complete_facts(node: NodeFacts) -> bool:
    """Whether a node could say by digest what each of its generations was made of."""
    return all("@sha256:" in reference for reference in node.kept)


def _want(found: Wanted, reference: str, who: str) -> None:
    names = found.setdefault(reference.rpartition("@")[2], [])
    if who not in names:
        names.append(who)


def sweep(held: Sequence[HeldImage], wants: Wanted) -> tuple[tuple[KeptImage, ...], tuple[RemovedImage, ...], int]:
    """What stays, what goes, and the bytes that only what goes holds. The manifests of an index stay with it."""
    reasons = dict(wants)
    for image in held:
        for child in image.children if image.digest in wants else ():
            reasons.setdefault(child, wants[image.digest])
    stays = [image for image in held if image.digest in reasons]
    goes = [image for image in held if image.digest not in reasons]
    shared = {blob.digest for image in stays for blob in image.blobs}
    alone = {blob.digest: blob.size for image in goes for blob in image.blobs if blob.digest not in shared}
    kept = (
        KeptImage(digest=image.digest, tags=image.tags, bytes=image.size, because=tuple(reasons[image.digest]))
        for image in stays
    )
    removed = (RemovedImage(digest=image.digest, tags=image.tags, bytes=image.size) for image in goes)
    return tuple(kept), tuple(removed), sum(alone.values())
