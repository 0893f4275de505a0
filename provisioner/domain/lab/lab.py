"""The settings of a lab, as written in `lab.yml`. Unknown keys are errors."""

import math
import re
from contextlib import suppress
from datetime import date
from fnmatch import fnmatchcase
from ipaddress import IPv4Address
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from provisioner.domain.lab.calendar import Calendar, Freeze, Window
from provisioner.domain.lab.environments import (
    DEFAULT_ENVIRONMENT,
    EnvironmentName,
    Environments,
    ImageSettings,
    resolve_environments,
)
from provisioner.domain.lab.inside import Inside, TimeZone
from provisioner.domain.lab.mounts import AbsolutePath, Mounts, overlap
from provisioner.domain.lab.waves import Share
from provisioner.domain.values.feed_format import FeedFormat
from provisioner.domain.values.model import UserInput
from provisioner.domain.values.node import GPU_UUID_PATTERN
from provisioner.domain.values.size import SIZE_PATTERN, Size
from provisioner.domain.values.subnet import NetworkPool

_ADDRESS = r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)(:\d{1,5})?$"
MAX_GPUS = 64  # of one node
_MAX_PORT = 65535
_HTTPS_PORT = 443
_LOOPBACK = "127.0.0.1"
_SERVICE_PORTS = frozenset({8888, 2222})  # of Jupyter and sshd inside of a seat
# First parts of the paths of Jupyter's own pages.
_JUPYTER_NAMES = {"api", "custom", "doc", "edit", "files", "hub", "lab", "login", "logout", "metrics", "proxy"}
_JUPYTER_NAMES |= {"nbconvert", "nbextensions", "notebooks", "static", "terminals", "tree", "user", "view"}


def _split_port(address: str) -> tuple[str, int]:
    """Return host and port of an address; the default port is that of https."""
    host, colon, port = address.rpartition(":") if re.search(r":\d+$", address) else (address, "", "")
    return host, int(port) if colon else _HTTPS_PORT


def _check_address(text: str) -> str:
    host, port = _split_port(text)
    has_port = host != text
    if has_port and not 0 < port <= _MAX_PORT:
        raise ValueError(f"{text!r} has no port from 1 to {_MAX_PORT}")
    if not has_port and "." not in host and ":" not in host and host != "localhost":
        raise ValueError(f"engines read {text}/NAME as an image of Docker Hub: add the port, such as {text}:443")
    return text


def _check_user(text: str) -> str:
    if text == "root":
        raise ValueError("a seat never belongs to root: name another user")
    return text


Address = Annotated[str, StringConstraints(pattern=_ADDRESS), AfterValidator(_check_address)]
Repository = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+([._/-]+[a-z0-9]+)*$")]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
UserName = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,30}$"), AfterValidator(_check_user)]
# auto: from the size of the node; none: no limit.
MemoryLimit = Annotated[str, StringConstraints(pattern=f"^(auto|none|{SIZE_PATTERN})$")]
FeedPlace = Annotated[str, StringConstraints(pattern=r"^(https?://[^\s/@]+(/\S*)?|[^\s:]+)$")]
# It becomes part of a line in apt's sources. $(ARCH) stands for the node's architecture as dpkg names it.
PackagePlace = Annotated[
    str, StringConstraints(pattern=r"^https?://[A-Za-z0-9.-]+(:\d{1,5})?(/[A-Za-z0-9._~$()-]+)*/?$")
]
GroupName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,30}$")]
UnixGroup = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}$")]
MirrorKind = Literal["static", "registry-proxy", "harbor-proxy", "lazy", "redirector"]

# Mirrors that fetch an image on request instead of on a schedule.
ON_DEMAND: frozenset[MirrorKind] = frozenset({"registry-proxy", "harbor-proxy", "lazy", "redirector"})


class FeedSettings(UserInput):
    """The sync status that the mirror publishes. `url` may be a file, relative to the lab's directory."""

    url: FeedPlace
    job: Annotated[str, StringConstraints(min_length=1)]
    format: FeedFormat = "tunasync"


class Upstream(UserInput):
    """The registry that the mirror copies. It is asked first: the mirror cannot have what upstream lacks.

    `repositories` are set if they have other names there than on the mirror. `fallback`: the whole lab may use it if
    the mirror serves fewer nodes.
    """

    address: Address
    repositories: tuple[Repository, ...] = ()
    ca: str | None = None
    plain_http: bool = False
    fallback: bool = False


class Mirror(UserInput):
    """The source of base images. Paths are relative to the lab's directory.

    `cache_minutes`: how long a layer that was complete counts as complete without a new check; 0 checks every time.
    """

    address: Address
    repositories: tuple[Repository, ...] = Field(default=("pytorch/pytorch",), min_length=1)
    kind: MirrorKind = "static"
    ca: str | None = None
    plain_http: bool = False
    feed: FeedSettings | None = None
    upstream: Upstream | None = None
    cache_minutes: Annotated[int, Field(ge=0, le=1440)] = 10


class Registry(UserInput):
    """The lab's own registry, the only one that nodes pull from. Paths are relative to the lab's directory.

    `managed`: `provision prepare` sets it up, on the host of the inventory's group `registry` or else on the control
    machine. Nodes read from `address`; the control machine pushes to `push_port` of the same host, by default the next
    port. Otherwise an existing registry is used unchanged.
    """

    address: Address
    repository: Repository = "provisioner/lab"
    ca: str | None = None
    plain_http: bool = False
    managed: bool = False
    push_port: Annotated[int, Field(ge=1024, le=_MAX_PORT)] | None = None

    @model_validator(mode="after")
    def _with_tls(self) -> Self:
        if self.managed and self.plain_http:
            raise ValueError("a registry that provision sets up speaks TLS: take plain_http away, or managed")
        return self

    @model_validator(mode="after")
    def _has_two_ports(self) -> Self:
        if self.push_port is not None and not self.managed:
            raise ValueError("push_port is the port of a registry that provision sets up: add managed, or remove it")
        if self.push_port == _split_port(self.address)[1]:
            raise ValueError("push_port is the port of the address: pushes need a port of their own")
        return self

    def push_address(self, *, is_local: bool) -> str:
        """Return where the control machine pushes to. `is_local`: the registry runs on the control machine itself."""
        host, port = _split_port(self.address)
        following = port + 1 if port < _MAX_PORT else port - 1
        return f"{_LOOPBACK if is_local else host}:{self.push_port or following}"


class Service(UserInput):
    """The address a service listens on: the node's loopback or its address in the lab, never all addresses."""

    bind: Literal["loopback", "lan"]


class SshService(Service):
    """SSH. `agent_forwarding`: a student may use the keys of their own machine in the seat, such as for git."""

    bind: Literal["loopback", "lan"] = "lan"
    agent_forwarding: bool = True


ExtraName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
ExtraPort = Annotated[int, Field(ge=1024, le=_MAX_PORT)]


def _check_extra(extra: dict[str, int]) -> dict[str, int]:
    for name, port in extra.items():
        if port in _SERVICE_PORTS:
            raise ValueError(f"{name}: Jupyter or SSH listens on {port} in a seat")
        if name in _JUPYTER_NAMES:
            raise ValueError(f"Jupyter has pages of the name {name}")
    if len(set(extra.values())) < len(extra):
        raise ValueError("two names have the same port")
    return extra


class Services(UserInput):
    """The services of a seat and their addresses.

    `extra`: ports inside of a seat by name, such as {tensorboard: 6006}. Jupyter shows what listens there at its own
    address, under /NAME/; no further port is open.
    """

    jupyter: Service = Service(bind="loopback")
    ssh: SshService = SshService()
    extra: Annotated[dict[ExtraName, ExtraPort], Field(max_length=8), AfterValidator(_check_extra)] = {}


def _check_cpus(value: object) -> float | Literal["auto", "none"]:
    if value == "auto" or value == "none":  # noqa: PLR1714  (mypy knows the literal only so)
        return value
    number = 0.0
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(value)
    if not 0 < number < math.inf:
        raise ValueError(f"neither a number of CPUs nor auto or none: {str(value)[:40]}")
    return number


CpuLimit = Annotated[
    float | Literal["auto", "none"],
    PlainValidator(_check_cpus),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"enum": ["auto", "none"]}]}),
]


class Limits(UserInput):
    """Resource limits of each container of a seat.

    `memory` and `cpus`: `auto` is computed from the size of the node, `none` sets no limit. `shm`: the size of
    /dev/shm, at most half of the memory.
    """

    memory: MemoryLimit = "auto"
    cpus: CpuLimit = "auto"
    pids: Annotated[int, Field(ge=256)] = 4096
    shm: Size = "8g"


_Port = Annotated[int, Field(ge=1024, le=32767)]


class Ports(UserInput):
    """The range of published ports; each seat uses two. It is below the kernel's ephemeral range (32768)."""

    first: _Port = 22000
    last: _Port = 22999

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.last <= self.first:
            raise ValueError("last must be greater than first: a seat needs two ports")
        return self

    def overlaps(self, other: "Ports") -> bool:
        """Whether a port is in both ranges."""
        return self.first <= other.last and other.first <= self.last


class SelfServicePorts(Ports):
    """The range of the ports of seats that people start themselves: nodes choose them, without the control machine."""

    first: _Port = 24000
    last: _Port = 24999


Pools = Annotated[
    tuple[NetworkPool, ...],
    Field(min_length=1, max_length=8),
    BeforeValidator(
        lambda given: [given] if isinstance(given, str) else given,
        json_schema_input_type=NetworkPool | tuple[NetworkPool, ...],
    ),
]


class SeatSettings(UserInput):
    """The seat of a lab without a roster: one on each node, with all of its GPUs.

    `subnets`: private networks; the containers of each seat get a /28 of the first that is free on its node.
    `environment`: the name of the environment that these seats run.
    """

    user: UserName = "student"
    environment: EnvironmentName = DEFAULT_ENVIRONMENT
    uid: Annotated[int, Field(ge=1000, le=60000)] = 1000
    gid: Annotated[int, Field(ge=1000, le=60000)] = 1000
    authorized_keys: tuple[str, ...] = Field(default=(), description="Public key files, relative to the lab")
    homes: AbsolutePath = "/srv/provisioner/homes"
    ports: Ports = Ports()
    subnets: Pools = ("10.213.0.0/16", "172.29.0.0/16", "192.168.192.0/18")
    limits: Limits = Limits()


class PeopleSettings(UserInput):
    """Who has a seat. `roster` is the file with one person a row, relative to the lab's directory.

    `term_ends`: the day after which others get the ports and the subnet of a seat that was stopped until then, because
    its person has left the roster; None: never.
    """

    roster: Annotated[str, Field(min_length=1)]
    term_ends: date | None = None


def _check_pool(gpus: object) -> int | tuple[str, ...] | None:
    if gpus is None or (isinstance(gpus, int) and not isinstance(gpus, bool) and 1 <= gpus <= MAX_GPUS):
        return gpus
    if not isinstance(gpus, list | tuple) or not gpus:
        raise ValueError(f"neither a number of GPUs from 1 to {MAX_GPUS} nor a list of their UUIDs: {str(gpus)[:40]}")
    wrong = [gpu for gpu in gpus if not isinstance(gpu, str) or not re.fullmatch(GPU_UUID_PATTERN, gpu)]
    if wrong:
        raise ValueError(f"not the UUID of a GPU, as `provision probe` shows it: {str(wrong[0])[:50]}")
    if len(set(gpus)) < len(gpus):
        raise ValueError("a GPU is in the list twice")
    return tuple(gpus)


GpuPool = Annotated[
    int | tuple[str, ...] | None,
    PlainValidator(_check_pool),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": MAX_GPUS},
                {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": GPU_UUID_PATTERN}},
                {"type": "null"},
            ]
        }
    ),
]
Hours = Annotated[float, Field(gt=0, le=8784, allow_inf_nan=False)]


class SelfService(UserInput):
    """Seats that people start themselves on the nodes that match `nodes`, within the ceilings of their group.

    `gpus`: the pool that leases are given from, so many of each node, or these UUIDs; None: every GPU that no row of
    the roster has alone. `unix_group`: whose accounts may ask. `show_names`: people see who has the GPUs.
    """

    nodes: Annotated[str, StringConstraints(pattern=r"^\S{1,253}$")] = "*"
    gpus: GpuPool = None
    unix_group: UnixGroup
    ports: SelfServicePorts = SelfServicePorts()
    show_names: bool = True

    def covers(self, node: str) -> bool:
        """Whether the node of this name is to have self-service."""
        return fnmatchcase(node, self.nodes)


class Group(UserInput):
    """A group of people: how many cards each may have on a node (`gpus`), and the limits of their containers.

    None: no such ceiling, and the limit of seat.limits. `unix`: accounts of this group on a node belong to it, if
    the roster does not say another. `disk`: what home and containers of a seat should stay below. It is measured each
    night and warned of, and nothing enforces it.

    Of seats that people start themselves: `hours` is the longest lease, `idle_hours` the time without use after which
    it ends (None: never), `grace_minutes` the time between its end and the stop of the seat, and `environments` what
    they may start.
    """

    unix: UnixGroup | None = None
    gpus: Annotated[int, Field(ge=0, le=MAX_GPUS)] | None = None
    memory: MemoryLimit | None = None
    cpus: CpuLimit | None = None
    pids: Annotated[int, Field(ge=256)] | None = None
    shm: Size | None = None
    disk: Size | None = None
    hours: Hours = 24
    idle_hours: Hours | None = None
    grace_minutes: Annotated[float, Field(ge=0, le=1440, allow_inf_nan=False)] = 10
    environments: Annotated[tuple[EnvironmentName, ...], Field(min_length=1)] = ("default",)


class RolloutSettings(UserInput):
    """How a rollout proceeds. None: `forks` follows from the lab's size, `pull_concurrency` from measured throughput.

    `windows` are the hours in which a change may begin, `freeze` the days on which none may, by `timezone`.
    """

    waves: tuple[Share, ...] = Field(default=("1", "25%", "100%"), min_length=1)
    max_failures: Share = "0"
    pull_concurrency: Annotated[int, Field(ge=1, le=1000)] | None = None
    forks: Annotated[int, Field(ge=1, le=200)] | None = None
    min_healthy_seconds: Annotated[int, Field(ge=0, le=600)] = 5
    healthy_deadline_seconds: Annotated[int, Field(ge=10, le=3600)] = 180
    pull_deadline_seconds: Annotated[int, Field(ge=60, le=86400)] = 7200
    freeze: tuple[Freeze, ...] = ()
    windows: tuple[Window, ...] = ()
    timezone: TimeZone | None = None

    @model_validator(mode="after")
    def _has_timezone(self) -> Self:
        if (self.freeze or self.windows) and self.timezone is None:
            raise ValueError(
                "freeze and windows need a timezone beside them, such as Europe/Berlin: whose clock counts"
            )
        return self

    @property
    def calendar(self) -> Calendar:
        """The maintenance calendar."""
        return Calendar(self.freeze, self.windows, ZoneInfo(self.timezone or "UTC"))


class PackageSource(UserInput):
    """A mirror of a vendor's packages. `key` is the file of their signing key, relative to the lab's directory."""

    uri: PackagePlace
    key: str


def _as_list(value: object) -> object:
    return [value] if isinstance(value, dict) else value


PackageSources = Annotated[
    tuple[PackageSource, ...],
    Field(max_length=8),
    BeforeValidator(_as_list, json_schema_input_type=PackageSource | tuple[PackageSource, ...]),
]


class PrepareSettings(UserInput):
    """How nodes are prepared. Of several sources the first that has the packages is used.

    Without a source, packages come from the node's own sources.
    """

    deadline_seconds: Annotated[int, Field(ge=60, le=86400)] = 1800
    docker: PackageSources = ()
    nvidia: PackageSources = ()


class Lab(UserInput):
    """The settings of one lab. `schema` is for editors; `init` writes the fields in this order."""

    schema_: str | None = Field(default=None, alias="$schema")
    name: Slug
    mirror: Mirror
    registry: Registry
    image: ImageSettings = ImageSettings()
    environments: Environments = {}
    inside: Inside = Inside()
    mounts: Mounts = ()
    services: Services = Services()
    seat: SeatSettings = Field(default=SeatSettings(), validate_default=True)
    people: PeopleSettings | None = None
    self_service: SelfService | None = None
    groups: dict[GroupName, Group] = {}
    rollout: RolloutSettings = RolloutSettings()
    prepare: PrepareSettings = PrepareSettings()

    @field_validator("seat")
    @classmethod
    def _apart_from_mounts(cls, seat: SeatSettings, info: ValidationInfo) -> SeatSettings:
        sources = [mount.source for mount in info.data.get("mounts", ())]
        if found := [source for source in sources if overlap(source, seat.homes)]:
            raise ValueError(
                f"homes {seat.homes} and mounts {', '.join(found)} overlap: every seat would see the homes of all"
            )
        return seat

    @field_validator("self_service")
    @classmethod
    def _with_own_ports(cls, given: SelfService | None, info: ValidationInfo) -> SelfService | None:
        seat = info.data.get("seat")
        if given is not None and isinstance(seat, SeatSettings) and given.ports.overlaps(seat.ports):
            raise ValueError(
                f"its ports {given.ports.first}-{given.ports.last} overlap seat.ports {seat.ports.first}-"
                f"{seat.ports.last}: nodes give the ones, and a rollout the others"
            )
        return given

    @field_validator("groups")
    @classmethod
    def _of_people(cls, groups: dict[str, Group], info: ValidationInfo) -> dict[str, Group]:
        has_people = any(info.data.get(name, ...) is not None for name in ("people", "self_service"))
        if groups and not has_people:
            raise ValueError(
                "no person is in a group of a lab without a roster and without self_service: add people, or remove"
                " groups"
            )
        return groups

    @property
    def all_environments(self) -> dict[str, ImageSettings]:
        """The settings of every environment by name, `default` first."""
        return resolve_environments(self.image, self.environments)


def lan_address(candidates: tuple[str, ...], host: str | None) -> str | None:
    """Return the address for "lan" on a node: `host`, by which Ansible reaches it, else its first own address.

    None if none of them is the IPv4 address of one interface.
    """
    for text in (host or "", *candidates):
        try:
            address = IPv4Address(text)
        except ValueError:
            continue
        if not (address.is_unspecified or address.is_multicast):
            return str(address)
    return None
