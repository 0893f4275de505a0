"""Garbage collection of a lab's registry: which images are still in use, and how many bytes the others hold."""

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
    """A manifest in the registry. `children`: digests of the manifests that an index lists; they stay with it."""

    digest: Digest
    tags: tuple[str, ...]
    blobs: tuple[Blob, ...] = ()
    children: tuple[Digest, ...] = ()

    @property
    def size(self) -> int:
        """Bytes, including those that it shares with other images."""
        return sum(blob.size for blob in self.blobs)


class KeptImage(Value):
    """An image that stays. `because`: the locks that name it, and the nodes that run it or can roll back to it."""

    digest: Digest
    tags: tuple[str, ...]
    bytes: int
    because: tuple[str, ...]


class RemovedImage(Value):
    """An image that no lock and no node refers to. `bytes` include layers that it shares with other images."""

    digest: Digest
    tags: tuple[str, ...]
    bytes: int


class GarbageReport(Document):
    """The result of a garbage collection.

    `bytes`: what only the removed images hold in this repository. `freed`: disk space that was freed, None: unknown.
    `silent`: nodes that did not answer; images that only these nodes use are not protected.
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


ImageUsers = dict[Digest, list[str]]


def find_users(locks: Mapping[str, Lockfile], nodes: Iterable[NodeFacts]) -> ImageUsers:
    """Return the locks and nodes that use each digest.

    Digests count whatever the name of their registry: to keep an image without need does no harm.
    """
    users: ImageUsers = {}
    for name, lock in locks.items():
        for image in lock.all_images:
            _add_user(users, image.lab, f"lock {name}")
            _add_user(users, image.base, f"lock {name}")
    for node in nodes:
        for reference in (*node.kept, *(seat.image for seat in node.seats)):
            _add_user(users, reference, f"node {node.name}")
    return users


def has_complete_facts(node: NodeFacts) -> bool:
    """Whether the node reported the image of each of its generations by digest."""
    return all("@sha256:" in reference for reference in node.kept)


def _add_user(users: ImageUsers, reference: str, user: str) -> None:
    names = users.setdefault(reference.rpartition("@")[2], [])
    if user not in names:
        names.append(user)


def sweep(held: Sequence[HeldImage], users: ImageUsers) -> tuple[tuple[KeptImage, ...], tuple[RemovedImage, ...], int]:
    """Return the images that stay, the images to remove, and the bytes that only the latter hold.

    The manifests that an index lists stay with it.
    """
    reasons = dict(users)
    for image in held:
        for child in image.children if image.digest in users else ():
            reasons.setdefault(child, users[image.digest])
    used = [image for image in held if image.digest in reasons]
    unused = [image for image in held if image.digest not in reasons]
    shared = {blob.digest for image in used for blob in image.blobs}
    alone = {blob.digest: blob.size for image in unused for blob in image.blobs if blob.digest not in shared}
    kept = (
        KeptImage(digest=image.digest, tags=image.tags, bytes=image.size, because=tuple(reasons[image.digest]))
        for image in used
    )
    removed = (RemovedImage(digest=image.digest, tags=image.tags, bytes=image.size) for image in unused)
    return tuple(kept), tuple(removed), sum(alone.values())
