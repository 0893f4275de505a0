"""What a journey needs from the world. The adapters fit these shapes; the CLI introduces them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.registry.catalog import Catalog, Listing
from provisioner.domain.rollout.order import BackOrder, DownOrder, Order
from provisioner.domain.rollout.report import NodeRecord
from provisioner.domain.values.claim import Claim
from provisioner.domain.values.image_identity import Identity
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport

Probed = Mapping[str, NodeFacts | Problem]


class Host(Protocol):
    """A node as the inventory names it. `address` is how Ansible reaches it (ansible_host), None for its own name."""

    @property
    def name(self) -> str: ...
    @property
    def address(self) -> str | None: ...


class Fleet(Protocol):
    """The nodes, through Ansible. A node that cannot be reached is a Problem in its place, never an exception.

    Every method raises ProblemError where Ansible itself did not run the play.
    """

    def hosts(self) -> Sequence[Host]: ...
    def probe(self, nodes: Sequence[str]) -> Probed: ...
    def stage(self, orders: Mapping[str, Order]) -> Mapping[str, NodeRecord]: ...
    def switch(self, orders: Mapping[str, Order]) -> Mapping[str, NodeRecord]: ...


class Claims(Protocol):
    """The part of a fleet that asks its nodes who may change them. A node that is held for the run has None."""

    def claim(self, claim: Claim, nodes: Sequence[str], breaks: str) -> Mapping[str, Problem | None]: ...
    def release(self, claim: Claim, nodes: Sequence[str]) -> Mapping[str, Problem | None]: ...


class SupportsRollback(Protocol):
    """The part of a fleet that brings seats back to what they ran before."""

    def roll_back(self, orders: Mapping[str, BackOrder]) -> Mapping[str, NodeRecord]: ...


class SupportsRemoval(Protocol):
    """The part of a fleet that takes seats down."""

    def take_down(self, orders: Mapping[str, DownOrder]) -> Mapping[str, NodeRecord]: ...


class NodeFleet(Fleet, Claims, SupportsRollback, SupportsRemoval, Protocol):
    """All that a run over a lab needs of its nodes."""


class Mirror(Protocol):
    """`catalog` looks at every tag; `listed` reads their names alone, and they count as cold."""

    def listed(self, repositories: Sequence[str], platform: str, *, wanted: Callable[[str], bool]) -> Catalog: ...
    def catalog(self, repositories: Sequence[str], platform: str, *, wanted: Callable[[str], bool]) -> Catalog: ...
    def inspect(self, reference: ImageReference, platform: str) -> Listing: ...
    def identity(self, reference: ImageReference, platform: str) -> Identity | None: ...


class Upstream(Mirror, Protocol):
    """What the mirror copies. It counts what it is asked: `digest` costs a HEAD."""

    def tags(self, repository: str) -> tuple[str, ...]: ...
    def digest(self, reference: ImageReference) -> str | None: ...


class ImageCheck(Protocol):
    """The registry that the nodes pull from, looked at layer by layer. A fault of it stands in the report."""

    def check(self, references: Sequence[ImageReference], platform: str) -> Sequence[SyncReport]: ...


class Builder(Protocol):
    """Makes the lab image of a base, or finds the one made before, and leaves it in the lab's own registry."""

    def lab_image(self, base: Listing) -> LockedImage: ...
