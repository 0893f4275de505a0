"""What a workflow needs from outside: protocols that the adapters implement, and the context of a run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.registry.catalog import Catalog, Listing
from provisioner.domain.rollout.fetch import FetchOrder
from provisioner.domain.rollout.leases import BrokerAnswer, BrokerRequest
from provisioner.domain.rollout.order import Order, Orders, RemovalOrder, RollbackOrder, SwitchOrder
from provisioner.domain.rollout.publish import PublicationOrder
from provisioner.domain.rollout.report import NodeRecord
from provisioner.domain.values.claim import Claim
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.image_identity import ImageIdentity
from provisioner.domain.values.measured import Measured
from provisioner.domain.values.model import Document
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport

Probed = Mapping[str, NodeFacts | Problem]
StopRequested = Callable[[], bool]


class Journal(Protocol):
    """The record of one run on disk: a folder named after the run."""

    @property
    def run(self) -> str:
        """The identifier of the run."""
        ...

    @property
    def folder(self) -> Path:
        """Where the files of the run are."""
        ...

    def keep(self, name: Literal["plan", "undertaking", "lock-before", "report"], document: Document) -> Path:
        """Write a document of the run and return its path."""
        ...

    def forget(self, name: Literal["undertaking"]) -> None:
        """Delete the document of a run that changed nothing."""
        ...


@dataclass(frozen=True)
class RunContext:
    """What every step of a run needs. `on_event` records an event in the journal and then shows it.

    `stop` returns whether the user has asked the run to stop; a step that has begun is completed all the same.
    """

    journal: Journal
    on_event: OnEvent
    stop: StopRequested


class Host(Protocol):
    """A node of the inventory. `address` is how Ansible reaches it (ansible_host), or None where its name is enough."""

    @property
    def name(self) -> str:
        """The name in the inventory."""
        ...

    @property
    def address(self) -> str | None:
        """The value of ansible_host."""
        ...


class Fleet(Protocol):
    """The nodes, reached through Ansible. An unreachable node is a Problem in the result, never an exception.

    Every method raises ProblemError where Ansible itself did not run the play.
    """

    def hosts(self) -> Sequence[Host]:
        """Return the nodes that the inventory and its limit name, in the order of the inventory."""
        ...

    def probe(self, nodes: Sequence[str]) -> Probed:
        """Return the facts of each node, or the reason why there are none."""
        ...

    def stage(self, orders: Orders[Order]) -> Mapping[str, NodeRecord]:
        """Bring image and files of each seat to its node; what runs there goes on running."""
        ...

    def switch(self, orders: Orders[SwitchOrder]) -> Mapping[str, NodeRecord]:
        """Replace each staged seat and verify the new one; stop a seat that has a removal order."""
        ...


class SupportsClaims(Protocol):
    """The part of a fleet that gives a run the sole right to change seats. The result of a node is None on success."""

    def claim(self, claims: Mapping[str, Claim], breaks: str) -> Mapping[str, Problem | None]:
        """Take the claim of each node; one of the run `breaks` that is in its way is replaced."""
        ...

    def release(self, claim: Claim, nodes: Sequence[str]) -> Mapping[str, Problem | None]:
        """Give up the claim of the run on these nodes, whatever it covers there."""
        ...


class SupportsFetch(Protocol):
    """The part of a fleet that fetches images before a rollout."""

    def fetch(self, orders: Orders[FetchOrder]) -> Mapping[str, NodeRecord]:
        """Pull the images of one order a node, under the name IMAGES; `committed` where some were lacking."""
        ...


class SupportsRollback(Protocol):
    """The part of a fleet that returns seats to an earlier generation."""

    def roll_back(self, orders: Orders[RollbackOrder]) -> Mapping[str, NodeRecord]:
        """Return each seat to the generation that its order names."""
        ...


class SupportsRemoval(Protocol):
    """The part of a fleet that removes seats."""

    def take_down(self, orders: Orders[RemovalOrder]) -> Mapping[str, NodeRecord]:
        """Stop or remove each seat."""
        ...


class SupportsDiskLimits(Protocol):
    """The part of a fleet that sets the limits at which nodes warn of the use of the disk."""

    def limit_disks(self, limits: Mapping[str, Mapping[str, int | None]], run: str) -> Mapping[str, NodeRecord]:
        """Set limits by node and seat: bytes, None for no limit. A seat that is not set up is left as it is."""
        ...


class SupportsBrokers(Protocol):
    """The part of a fleet that asks the brokers of nodes, as root."""

    def ask_brokers(
        self, requests: Mapping[str, Sequence[BrokerRequest]]
    ) -> Mapping[str, tuple[BrokerAnswer, ...] | Problem]:
        """Return the answers of each node in the order of its requests, or why there are none."""
        ...


class SupportsPublication(Protocol):
    """The part of a fleet that installs, updates and removes self-service."""

    def publish(self, orders: Orders[PublicationOrder]) -> Mapping[str, NodeRecord]:
        """Carry out one order a node, under the name that stands for self-service in the place of a seat."""
        ...


class NodeFleet(
    Fleet,
    SupportsClaims,
    SupportsRollback,
    SupportsRemoval,
    SupportsDiskLimits,
    SupportsPublication,
    SupportsBrokers,
    Protocol,
):
    """All that a run on a lab needs of its nodes."""


class Mirror(Protocol):
    """A registry that images are chosen from."""

    def listed(self, repositories: Sequence[str], platform: str, *, wanted: Callable[[str], bool]) -> Catalog:
        """Return the tags by name alone, without a request per tag; they count as cold."""
        ...

    def catalog(self, repositories: Sequence[str], platform: str, *, wanted: Callable[[str], bool]) -> Catalog:
        """Return the tags with the sync state of each."""
        ...

    def inspect(self, reference: ImageReference, platform: str) -> Listing:
        """Return one image with its sync state."""
        ...

    def identity(self, reference: ImageReference, platform: str) -> ImageIdentity | None:
        """Return what identifies the content of an image, or None where it cannot be read."""
        ...


class Upstream(Mirror, Protocol):
    """The registry that the mirror copies. It limits requests: `digest` costs a HEAD."""

    def tags(self, repository: str) -> tuple[str, ...]:
        """Return the names of all tags."""
        ...

    def digest(self, reference: ImageReference) -> str | None:
        """Return the digest of a tag, or None where it has none."""
        ...


class ImageCheck(Protocol):
    """The registry that the nodes pull from."""

    def check(self, references: Sequence[ImageReference], platform: str) -> Sequence[SyncReport]:
        """Check every layer of each image. A fault is part of the report of its image."""
        ...


class Builder(Protocol):
    """Builds lab images."""

    def resolve_course(self, base: Listing, environment: str) -> None:
        """Choose the packages of an environment for `base`, so that a conflict is found before anything is built."""
        ...

    def lab_image(self, base: Listing, environment: str, verify: Callable[[Measured], None]) -> LockedImage:
        """Return the lab image of `base` for an environment of lab.yml: the one in the lab's registry, or a new one.

        `verify` raises ProblemError where what was measured in the base differs from what it was chosen for.
        """
        ...
