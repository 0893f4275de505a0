"""The configuration of a node's broker: who may lease which GPUs for how long, and the published environments."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from pydantic import Field

from provisioner.domain.lab.groups import disk_limit_of, limits_of, with_default_group
from provisioner.domain.lab.kept import allowed_environments
from provisioner.domain.lab.lab import Group, Lab
from provisioner.domain.lab.lock import LockedImage, Lockfile
from provisioner.domain.lab.ordered import Deadlines, OrderedImage, OrderedRegistry, order_image, order_registry
from provisioner.domain.seat.document import SeatDocument
from provisioner.domain.seat.limits import build_limits
from provisioner.domain.seat.options import seat_options
from provisioner.domain.seat.seat import Seat, ServiceName, binds_on, has_start_interval
from provisioner.domain.seat.slotted import Documents
from provisioner.domain.values.allocation import free_subnet
from provisioner.domain.values.limits import Capacity, SeatLimits
from provisioner.domain.values.model import Document, Value
from provisioner.domain.values.node import SELF_SERVICE, NodeFacts
from provisioner.domain.values.problem import Problem

CONFIG_SCHEMA: Literal["provisioner/self_service/1"] = "provisioner/self_service/1"
_VERSION_LENGTH = 12


class PortRange(Value):
    """The ports that the broker gives to seats."""

    first: int
    last: int


class PublishedGroup(Value):
    """The ceilings of a group on this node. `unix`: the unix group of its accounts. `disk`: bytes, None: no limit.

    `limits`: of each container, as numbers that follow from what the node has.
    """

    unix: str | None
    gpus: int
    hours: float
    idle_hours: float | None
    grace_minutes: float
    environments: tuple[str, ...]
    limits: SeatLimits
    disk: int | None


class PublishedEnvironment(Value):
    """An environment. `version`: the beginning of the SHA-256 of its document."""

    version: str
    torch: str
    image: OrderedImage
    registry: OrderedRegistry
    deadlines: Deadlines
    start_interval: bool


class SelfServiceConfig(Document):
    """The configuration of one node. `term_ends`: a day, empty for none; `order`: the names of `groups` as in lab.yml.

    The first group whose unix group an account is in counts, and JSON objects have no order.
    """

    schema_: Literal["provisioner/self_service/1"] = Field(default=CONFIG_SCHEMA, alias="schema")
    lab: str
    node: str
    unix_group: str
    show_names: bool
    pool: tuple[str, ...]
    ports: PortRange
    subnets: tuple[str, ...]
    homes: str
    binds: dict[ServiceName, str]
    term_ends: str = ""
    groups: dict[str, PublishedGroup]
    order: tuple[str, ...] = ()
    environments: dict[str, PublishedEnvironment]

    @property
    def digest(self) -> str:
        """The SHA-256 that the node reports once it has this configuration."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

    @property
    def images(self) -> tuple[OrderedImage, ...]:
        """The images of the environments."""
        return tuple(environment.image for environment in self.environments.values())

    @property
    def versions(self) -> dict[str, str]:
        """The versions of the environments, by name."""
        return {name: environment.version for name, environment in self.environments.items()}


class Published(NamedTuple):
    """What a node gets: its configuration, and the document of each environment by its name."""

    config: SelfServiceConfig
    documents: Mapping[str, SeatDocument]


class PublicationSource(NamedTuple):
    """What the configuration of a node is made from. `address`: how Ansible connects to it.

    `images`: of the environments that run on the whole `pool` there, by name.
    """

    lab: Lab
    lock: Lockfile
    facts: NodeFacts
    images: Mapping[str, LockedImage]
    pool: tuple[str, ...]
    address: str | None = None


def build_published(source: PublicationSource, documents: Documents) -> Published | Problem:
    """Build what a node gets: each environment that a group may have. Or return why it gets none.

    Raises ProblemError as `Documents.document` does.
    """
    binds = binds_on(source.lab, source.facts, source.address)
    if isinstance(binds, Problem):
        return binds
    allowed = [_allowed(source, group) for group in with_default_group(source.lab.groups).values()]
    images = {name: image for name, image in source.images.items() if any(name in names for names in allowed)}
    if not images:
        return _nothing_to_publish(source, allowed)
    found = {name: documents.document(_sample_seat(source, name, binds), image) for name, image in images.items()}
    return Published(_config(source, binds, found), found)


def _allowed(source: PublicationSource, group: Group) -> tuple[str, ...]:
    return allowed_environments(group.environments, source.lock)


def _config(
    source: PublicationSource, binds: dict[ServiceName, str], documents: Mapping[str, SeatDocument]
) -> SelfServiceConfig:
    lab, settings = source.lab, source.lab.self_service
    if settings is None:
        raise ValueError(f"the lab {lab.name} has no self_service")
    groups = with_default_group(lab.groups)
    ends = lab.people.term_ends if lab.people else None
    return SelfServiceConfig(
        lab=lab.name,
        node=source.facts.name,
        unix_group=settings.unix_group,
        show_names=settings.show_names,
        pool=source.pool,
        ports=PortRange(first=settings.ports.first, last=settings.ports.last),
        subnets=lab.seat.subnets,
        homes=lab.seat.homes,
        binds=binds,
        term_ends=ends.isoformat() if ends else "",
        groups={name: _group(source, name, group) for name, group in groups.items()},
        order=tuple(groups),
        environments={name: _environment(source, name, document) for name, document in documents.items()},
    )


def _group(source: PublicationSource, name: str, group: Group) -> PublishedGroup:
    return PublishedGroup(
        unix=group.unix,
        gpus=len(source.pool) if group.gpus is None else group.gpus,
        hours=group.hours,
        idle_hours=group.idle_hours,
        grace_minutes=group.grace_minutes,
        environments=_allowed(source, group),
        limits=build_limits(limits_of(source.lab, name), _capacity(source.facts)),
        disk=disk_limit_of(source.lab, name),
    )


def _environment(source: PublicationSource, name: str, document: SeatDocument) -> PublishedEnvironment:
    """Return what the node is given of an environment. The broker does not wait until a seat has stayed healthy."""
    rules, image = source.lab.rollout, source.images[name]
    return PublishedEnvironment(
        version=document.digest[:_VERSION_LENGTH],
        torch=image.torch or "",
        image=order_image(image),
        registry=order_registry(image, source.lock.registry_ca),
        deadlines=Deadlines(pull=rules.pull_deadline_seconds, healthy=rules.healthy_deadline_seconds, min_healthy=0),
        start_interval=has_start_interval(source.facts),
    )


def _sample_seat(source: PublicationSource, environment: str, binds: dict[ServiceName, str]) -> Seat:
    """Return a seat with values that any seat may have: a document has slots in their place."""
    lab = source.lab
    return Seat.model_validate(
        {
            "name": f"{lab.name}_person",
            "kind": SELF_SERVICE,
            "lab": lab.name,
            "node": source.facts.name,
            "person": "person",
            "environment": environment,
            "user": "person",
            "uid": 1000,
            "gid": 1000,
            "home": f"{lab.seat.homes}/person",
            "gpus": (),
            "gpu_driver": "nvidia",
            "ports": {"ssh": 24000, "jupyter": 24001},
            "binds": binds,
            "subnet": free_subnet("", lab.seat.subnets, ()) or "",
            "start_interval": has_start_interval(source.facts),
            "options": seat_options(lab),
        }
    )


def _capacity(facts: NodeFacts) -> Capacity:
    return facts.engine.capacity if facts.engine else Capacity()


def _nothing_to_publish(source: PublicationSource, allowed: Iterable[tuple[str, ...]]) -> Problem:
    names = dict.fromkeys(name for names in allowed for name in names)
    return Problem(
        "no_environment",
        f"{source.facts.name}: none of the environments that groups may have can be published: {', '.join(names)}",
        "people start a seat in an environment; self-service of the node stays as it is",
        "name one that the lock has for this node in groups.NAME.environments; `provision plan -v` says what it has",
        source.facts.name,
    )
