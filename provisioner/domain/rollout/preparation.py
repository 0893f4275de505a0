"""Making nodes ready for seats: what each is told, what it answers, and how the whole of it ended."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from provisioner.domain.lab.lab import Lab, PackageSource
from provisioner.domain.rollout.order import STATE_ROOT
from provisioner.domain.values.model import Document, Value
from provisioner.domain.values.problem import Problem

PREPARATION_SCHEMA: Literal["provisioner/preparation/1"] = "provisioner/preparation/1"

# ready: nothing was to do · lacking: was only looked at, and lacks what `changes` says · prepared: was made ready
# deferred: is in use, and what is `pending` would end its containers · failed: `changes` were made before
# unknown: contact was lost while the node was at work, and it works on by itself
PrepareState = Literal["ready", "lacking", "prepared", "deferred", "failed", "unreachable", "unknown"]
READY: frozenset[PrepareState] = frozenset({"ready", "prepared"})


class OrderedSource(Value):
    """`key` is the text of the key (ASCII-armoured) that packages from `uri` are signed by."""

    uri: str
    key: str


class ReachedRegistry(Value):
    """`ca` is PEM text for the engine's certs.d; None leaves that folder alone."""

    address: str
    ca: str | None
    plain_http: bool = False


class RegistryOrder(Value):
    """To the host of a registry that is managed: `address` is what its certificate is for."""

    what: Literal["registry"] = "registry"
    run: str
    state_root: str = STATE_ROOT
    lab: str
    address: str
    deadline: int


class SweepOrder(Value):
    """To the same host. `quiet`: seconds for which nothing may have been pushed."""

    what: Literal["sweep"] = "sweep"
    run: str
    state_root: str = STATE_ROOT
    address: str
    quiet: int = 600


class PrepareOrder(Value):
    """The same to every node: what it lacks it knows itself. `deadline`: seconds for one act of its package manager.

    `reach`: whether the node is to prove that it reaches the registry, which may not be there yet.
    """

    what: Literal["node"] = "node"
    run: str
    state_root: str = STATE_ROOT
    docker: OrderedSource | None
    nvidia: OrderedSource | None
    registry: ReachedRegistry
    restart_engine: bool = False
    deadline: int
    reach: bool = True


class NodePreparation(Value):
    """What a node itself reports. `changes`: what was done, or would be; `pending`: what was not, because of `busy`."""

    node: str
    state: PrepareState
    changes: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    seconds: float = 0.0


class RegistryPreparation(NodePreparation):
    """The lab's registry. `node`: the host where it is set up; empty where it was there, and is used as it is.

    `ca`: the certificate (PEM) of the authority of one that was set up. `freed`: bytes, of a garbage collection.
    """

    address: str = ""
    ca: str | None = None
    freed: int = 0


class Preparation(Document):
    """`check`: nodes were only looked at."""

    schema_: Literal["provisioner/preparation/1"] = Field(default=PREPARATION_SCHEMA, alias="schema")
    lab: str
    check: bool
    registry: RegistryPreparation
    nodes: tuple[NodePreparation, ...]


def prepare_order(lab: Lab, run: str, keys: Mapping[str, str], ca: str | None) -> PrepareOrder:
    """`keys`: text of each key file, by the name of its source. Restarts nothing."""
    return PrepareOrder(
        run=run,
        docker=_source(lab.prepare.docker, keys.get("docker", "")),
        nvidia=_source(lab.prepare.nvidia, keys.get("nvidia", "")),
        registry=ReachedRegistry(address=lab.registry.address, ca=ca, plain_http=lab.registry.plain_http),
        deadline=lab.prepare.deadline_seconds,
    )


def registry_order(lab: Lab, run: str) -> RegistryOrder:
    return RegistryOrder(run=run, lab=lab.name, address=lab.registry.address, deadline=lab.prepare.deadline_seconds)


def _source(wish: PackageSource | None, key: str) -> OrderedSource | None:
    """Docker's folder for each distribution is the node's to choose, also where a person pasted one of them."""
    if wish is None:
        return None
    uri = wish.uri.rstrip("/")
    return OrderedSource(uri=uri.removesuffix("/debian").removesuffix("/ubuntu"), key=key)
