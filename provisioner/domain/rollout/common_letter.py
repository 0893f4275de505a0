"""The letter to everybody who may start a seat of their own: on which nodes, and how. It holds no secret."""

from collections.abc import Mapping
from typing import Annotated, NamedTuple

from pydantic import Field, StringConstraints, ValidationError

from provisioner.domain.lab.groups import DEFAULT_GROUP, with_default_group
from provisioner.domain.lab.lab import Group, Lab, SelfService, Slug, UnixGroup, lan_address
from provisioner.domain.rollout.leases import NO_SELF_SERVICE
from provisioner.domain.rollout.letter import (
    UNSAFE,
    HostAddress,
    HostKey,
    JumpHosts,
    without_accounts,
    wrong_fields,
)
from provisioner.domain.rollout.own_seat import alias_of
from provisioner.domain.rollout.status import broker_down
from provisioner.domain.self_service.pool import is_of_another_lab
from provisioner.domain.self_service.publication import elsewhere
from provisioner.domain.values.model import Value
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem

EVERYBODY = "everybody.self-service"  # the name of its files without an ending; see `letter_name` for those of people
_SSH_PORT = 22
_GPUS, _HOURS = 1, 8  # of the example

NodeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,252}$")]


class Way(NamedTuple):
    """How the control machine reaches a node by SSH: see `InventoryHost`. `host_key` empty: it does not know one."""

    address: str | None = None
    jump: str | None = None
    port: int = _SSH_PORT
    host_key: str = ""


class LetterNode(Value):
    """A node with self-service. `jump`: jump hosts, without names of accounts. `gpus`: how many its pool has."""

    name: NodeName
    address: HostAddress
    port: Annotated[int, Field(ge=1, le=65535)] = _SSH_PORT
    jump: JumpHosts = ""
    host_key: HostKey | None = None
    gpus: int = 0

    @property
    def needs_entry(self) -> bool:
        """Whether ssh reaches it only with lines in its configuration."""
        return bool(self.jump) or self.port != _SSH_PORT

    @property
    def target(self) -> str:
        """What follows ACCOUNT@: the address, or the name that lines in ssh's configuration explain."""
        return self.name if self.needs_entry else self.address

    @property
    def label(self) -> str:
        """Its name in known_hosts."""
        return self.address if self.port == _SSH_PORT else f"[{self.address}]:{self.port}"


class Ceilings(Value):
    """What people of the default group may have on a node. `gpus` None: all of the pool. `idle_hours` None: no end."""

    gpus: int | None
    hours: float
    idle_hours: float | None
    grace_minutes: float


class CommonLetter(Value):
    """What the letter says. `group`: whose `ceilings` it names. `contact` empty: the sender of the letter."""

    lab: Slug
    nodes: Annotated[tuple[LetterNode, ...], Field(min_length=1)]
    unix_group: UnixGroup
    ceilings: Ceilings
    group: str = DEFAULT_GROUP
    contact: str = ""

    @property
    def example(self) -> LetterNode:
        """The node in the commands: the first that has GPUs to lease."""
        return next((node for node in self.nodes if node.gpus), self.nodes[0])

    @property
    def request(self) -> str:
        """Return what to type for a seat, within the ceilings."""
        gpus = min(_GPUS, self.example.gpus, *([] if self.ceilings.gpus is None else [self.ceilings.gpus]))
        hours = min(_HOURS, int(self.ceilings.hours))
        return f"provision me --gpus {gpus}{f' --hours {hours}' if hours else ''}"

    @property
    def seat_alias(self) -> str:
        """The name by which `provision me --on` makes the seat on the node of the example known to ssh."""
        return alias_of(self.example.target, f"{self.lab}_")

    @property
    def entries(self) -> tuple[LetterNode, ...]:
        """The nodes that need lines in ssh's configuration."""
        return tuple(node for node in self.nodes if node.needs_entry)

    @property
    def known(self) -> tuple[LetterNode, ...]:
        """The nodes whose host key is known."""
        return tuple(node for node in self.nodes if node.host_key)

    @property
    def has_jump(self) -> bool:
        """Whether a node is behind a jump host."""
        return any(node.jump for node in self.nodes)


class BuiltLetter(NamedTuple):
    """The letter, None where no node can be named in it, and why nodes are left out."""

    letter: CommonLetter | None
    missing: Mapping[str, Problem]


def build_common_letter(
    lab: Lab,
    settings: SelfService,
    probed: Mapping[str, NodeFacts | Problem],
    ways: Mapping[str, Way],
    contact: str = "",
) -> BuiltLetter:
    """Build the letter of a lab with these settings of self-service. `probed`: its nodes that are to have it."""
    built = {name: _build_node(lab.name, name, facts, ways.get(name, Way())) for name, facts in probed.items()}
    nodes = tuple(found for found in built.values() if isinstance(found, LetterNode))
    letter = (
        CommonLetter(
            lab=lab.name,
            nodes=nodes,
            unix_group=settings.unix_group,
            ceilings=_ceilings(with_default_group(lab.groups)[DEFAULT_GROUP]),
            contact=contact,
        )
        if nodes
        else None
    )
    return BuiltLetter(letter, {name: found for name, found in built.items() if isinstance(found, Problem)})


def _ceilings(group: Group) -> Ceilings:
    return Ceilings(gpus=group.gpus, hours=group.hours, idle_hours=group.idle_hours, grace_minutes=group.grace_minutes)


def _build_node(lab: str, name: str, facts: NodeFacts | Problem, way: Way) -> LetterNode | Problem:
    if isinstance(facts, Problem):
        return facts
    found = facts.self_service
    if found is None or not found.lab:
        return _not_installed(name)
    if is_of_another_lab(lab, found):
        return elsewhere(name, found.lab)
    if not found.runs:
        return broker_down(name)
    try:
        return LetterNode(
            name=name,
            address=lan_address(facts.addresses, way.address) or "",
            port=way.port,
            jump=without_accounts(way.jump or ""),
            host_key=way.host_key or None,
            gpus=len(found.pool),
        )
    except ValidationError as error:
        return _unsafe(name, error)


def _not_installed(node: str) -> Problem:
    return Problem(
        NO_SELF_SERVICE,
        f"{node}: self-service is planned, and not set up yet",
        "people cannot start a seat there",
        "set it up with `provision rollout`, then write the letters again",
        node,
    )


def _unsafe(node: str, error: ValidationError) -> Problem:
    return Problem(
        UNSAFE,
        f"{node}: not what they should be: {wrong_fields(error)}",
        "they go into commands and into the configuration of ssh, so each value must be what it is said to be",
        "set ansible_host in the inventory to the IPv4 address at which people reach the node",
        node,
    )
