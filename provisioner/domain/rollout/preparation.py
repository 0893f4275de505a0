"""Preparation of nodes for seats: the order to each node, its answer, and the result of all."""

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field

from provisioner.domain.lab.lab import Lab, PackageSource
from provisioner.domain.rollout.order import STATE_ROOT
from provisioner.domain.values.model import Document, Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.reference import Digest

PREPARATION_SCHEMA: Literal["provisioner/preparation/1"] = "provisioner/preparation/1"

# ready: no change was needed · lacking: only checked, `changes` are needed · prepared: changes were made
# deferred: in use, and `pending` changes would stop its containers · failed: `changes` were made before the failure
# unknown: contact was lost during the job, and the node finishes it on its own
PrepareState = Literal["ready", "lacking", "prepared", "deferred", "failed", "unreachable", "unknown"]
READY: frozenset[PrepareState] = frozenset({"ready", "prepared"})


class OrderedSource(Value):
    """A package source. `key`: text (ASCII-armoured) of the key that signs the packages of `uri`."""

    uri: str
    key: str


class RegistryAccess(Value):
    """How a node connects to the registry. `ca`: PEM text for the engine's certs.d; None: it is not changed."""

    address: str
    ca: str | None
    plain_http: bool = False


class RegistryOrder(Value):
    """Set up a managed registry on its host. `deadline`: seconds for one command of the package manager.

    Nodes read at `address`. The control machine pushes to `push_address` with a login. `push_login` is the line of
    that login in the registry's htpasswd file: the user and a hash of the password. It is empty if there is no login.
    """

    what: Literal["registry"] = "registry"
    run: str
    state_root: str = STATE_ROOT
    lab: str
    address: str
    push_address: str
    push_login: str = ""
    deadline: int


class GcOrder(Value):
    """Collect garbage on the registry's host. `quiet`: seconds without a push that are required before.

    `remove`: digests of the images of `repository` to remove.
    """

    what: Literal["sweep"] = "sweep"
    run: str
    state_root: str = STATE_ROOT
    address: str
    push_address: str
    repository: str
    remove: tuple[Digest, ...] = ()
    quiet: int = 600


class PrepareOrder(Value):
    """Prepare a node. The order is the same for every node: each finds out what it lacks.

    Of several sources the node uses the first that has the packages it lacks. `deadline`: seconds for one command of
    the package manager. `many_seats`: the node may get many, which needs more of the kernel. `reach`: whether the node
    must prove that it can connect to the registry, which may not exist yet.
    """

    what: Literal["node"] = "node"
    run: str
    state_root: str = STATE_ROOT
    docker: tuple[OrderedSource, ...] = ()
    nvidia: tuple[OrderedSource, ...] = ()
    registry: RegistryAccess
    restart_engine: bool = False
    deadline: int
    many_seats: bool = False
    reach: bool = True


class NodePreparation(Value):
    """The report of a node. `changes`: made, or needed if it was only checked. `pending`: not made, as it is busy."""

    node: str
    state: PrepareState
    changes: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    seconds: float = 0.0


class RegistryPreparation(NodePreparation):
    """The report of the lab's registry. `node`: the host where it is set up; empty for an existing registry.

    `ca`: the CA certificate (PEM) of a registry that was set up. `freed`: bytes that a garbage collection freed.
    """

    address: str = ""
    ca: str | None = None
    freed: int = 0


class Preparation(Document):
    """The result of all preparations. `check`: nodes were only checked, nothing was changed."""

    schema_: Literal["provisioner/preparation/1"] = Field(default=PREPARATION_SCHEMA, alias="schema")
    lab: str
    check: bool
    registry: RegistryPreparation
    nodes: tuple[NodePreparation, ...]


def prepare_order(lab: Lab, run: str, keys: Mapping[str, str], ca: str | None) -> PrepareOrder:
    """Build the order for every node; it restarts nothing. `keys`: text of each key file of a source."""
    return PrepareOrder(
        run=run,
        docker=_sources(lab.prepare.docker, keys),
        nvidia=_sources(lab.prepare.nvidia, keys),
        registry=RegistryAccess(address=lab.registry.address, ca=ca, plain_http=lab.registry.plain_http),
        deadline=lab.prepare.deadline_seconds,
        many_seats=lab.people is not None,
    )


def registry_order(lab: Lab, run: str, *, is_local: bool) -> RegistryOrder:
    """Build the order that sets up the lab's registry. `is_local`: on the control machine itself."""
    return RegistryOrder(
        run=run,
        lab=lab.name,
        address=lab.registry.address,
        push_address=lab.registry.push_address(is_local=is_local),
        deadline=lab.prepare.deadline_seconds,
    )


def _sources(sources: Iterable[PackageSource], keys: Mapping[str, str]) -> tuple[OrderedSource, ...]:
    """Remove the folder of a distribution from the addresses: each node adds its own."""
    places = ((source.uri.rstrip("/"), keys.get(source.key, "")) for source in sources)
    return tuple(OrderedSource(uri=uri.removesuffix("/debian").removesuffix("/ubuntu"), key=key) for uri, key in places)
