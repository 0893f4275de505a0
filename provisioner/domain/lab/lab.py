"""The settings of a lab, as written in `lab.yml`. Unknown keys are errors."""

import re
from contextlib import suppress
from datetime import date
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, ip_address
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
from provisioner.domain.lab.inside import MAX_PORT, Inside, TimeZone, check_url_port
from provisioner.domain.lab.mounts import Homes, Mounts, overlap
from provisioner.domain.lab.waves import Share
from provisioner.domain.values.feed_format import FeedFormat
from provisioner.domain.values.model import UserInput
from provisioner.domain.values.node import GPU_UUID_PATTERN
from provisioner.domain.values.size import SIZE_PATTERN, Size, check_size, size_bytes
from provisioner.domain.values.subnet import NetworkPool

_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
_ADDRESS = rf"^(\[[0-9a-fA-F:]+\]|{_LABEL}(\.{_LABEL})*)(:\d{{1,5}})?$"
# A name of the OCI distribution specification: engines refuse any other.
_NAME_PART = "[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*"
MAX_GPUS = 64  # of one node
_HTTPS_PORT = 443
_MIN_MEMORY = 6 << 20  # bytes, of Docker Engine
_MIN_CPUS = 0.01  # of Docker Engine
_MAX_CPUS = 8192  # of Linux (NR_CPUS); the limit of a seat is at most what its node has
_MAX_PIDS = 1 << 22  # of Linux (PID_MAX_LIMIT)
_LOOPBACK = "127.0.0.1"
_SERVICE_PORTS = frozenset({8888, 2222})  # of Jupyter and sshd inside of a seat
# First parts of the paths of Jupyter's own pages.
_JUPYTER_NAMES = {"api", "custom", "doc", "edit", "files", "hub", "lab", "login", "logout", "metrics", "proxy"}
_JUPYTER_NAMES |= {"nbconvert", "nbextensions", "notebooks", "static", "terminals", "tree", "user", "view"}


def _split_port(address: str) -> tuple[str, int]:
    """Return host and port of an address; the default port is that of https."""
    host, colon, port = address.rpartition(":") if re.search(r":\d+$", address) else (address, "", "")
    return host, int(port) if colon else _HTTPS_PORT


def check_address(text: str) -> str:
    """Return HOST or HOST:PORT of a registry. Raises ValueError where none can be there, or engines read another."""
    host, port = _split_port(text)
    has_port = host != text
    if has_port and not (0 < port <= MAX_PORT and text.endswith(f":{port}")):
        raise ValueError(f"{text!r} has no port from 1 to {MAX_PORT}")
    _check_host(host)
    if not has_port and "." not in host and ":" not in host and host != "localhost":
        raise ValueError(f"engines read {text}/NAME as an image of Docker Hub: add the port, such as {text}:443")
    return text


def _check_host(host: str) -> None:
    """Raise ValueError for an IP address that no single host can have. Nothing is asked for of a name."""
    if not re.fullmatch(r"\[.*\]|[0-9.]+", host):
        return
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        raise ValueError(f"{host!r} is not an IP address") from None
    if address.is_unspecified or address.is_multicast:
        raise ValueError(f"{host!r} is not the address of one host")


def _check_user(text: str) -> str:
    if text == "root":
        raise ValueError("a seat never belongs to root: name another user")
    return text


def _check_memory(text: str) -> str:
    if text in {"auto", "none"}:
        return text
    if size_bytes(text) < _MIN_MEMORY:
        raise ValueError(f"engines start no container with less than {_MIN_MEMORY >> 20}m: {text}")
    return check_size(text)


Address = Annotated[str, StringConstraints(pattern=_ADDRESS), AfterValidator(check_address)]
Repository = Annotated[str, StringConstraints(pattern=f"^{_NAME_PART}(/{_NAME_PART})*$", max_length=255)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
UserName = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,30}$"), AfterValidator(_check_user)]
# auto: from the size of the node; none: no limit.
MemoryLimit = Annotated[str, StringConstraints(pattern=f"^(auto|none|{SIZE_PATTERN})$"), AfterValidator(_check_memory)]
FeedPlace = Annotated[
    str, StringConstraints(pattern=r"^(https?://[^\s/@]+(/\S*)?|[^\s:]+)$"), AfterValidator(check_url_port)
]
# It becomes part of a line in apt's sources. $(ARCH) stands for the node's architecture as dpkg names it.
PackagePlace = Annotated[
    str,
    StringConstraints(pattern=r"^https?://[A-Za-z0-9.-]+(:\d{1,5})?(/[A-Za-z0-9._~$()-]+)*/?$"),
    AfterValidator(check_url_port),
]
GroupName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,30}$")]
UnixGroup = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}$")]
MirrorKind = Literal["static", "registry-proxy", "harbor-proxy", "lazy", "redirector"]

# Mirrors that fetch an image on request instead of on a schedule.
ON_DEMAND: frozenset[MirrorKind] = frozenset({"registry-proxy", "harbor-proxy", "lazy", "redirector"})


class FeedSettings(UserInput):
    """The sync status that a mirror publishes."""

    url: FeedPlace = Field(
        description="Where the status is: a URL, or a file relative to the lab's directory",
        examples=["https://mirror.example/jobs"],
    )
    job: Annotated[str, StringConstraints(min_length=1)] = Field(
        description="The name of the job that copies the images", examples=["pytorch-images"]
    )
    format: FeedFormat = Field(
        default="tunasync",
        description="What writes the status: tunasync (TUNA, BFSU, NJU), Yuki (USTC), lug (SJTU), ZJU's own program; "
        "or mirrorz, the common format of the mirrors of universities",
    )


class Upstream(UserInput):
    """The registry that a mirror copies. It is asked first: the mirror cannot have what upstream lacks."""

    address: Address = Field(description="Host and port of the registry", examples=["docker.io"])
    repositories: tuple[Repository, ...] = Field(
        default=(),
        description="The repositories there, where they have other names than on the mirror",
        examples=[["pytorch/pytorch"]],
    )
    ca: str | None = Field(
        default=None,
        description="The file of the CA that signed its certificate; none: the CAs of this machine",
        examples=["upstream-ca.pem"],
    )
    plain_http: bool = Field(default=False, description="It is reached by http, without TLS")
    fallback: bool = Field(
        default=False, description="All images of the lab are taken from there if the mirror serves fewer nodes"
    )


class Mirror(UserInput):
    """The source of base images. Paths are relative to the lab's directory."""

    address: Address = Field(description="Host and port of the registry", examples=["registry.example:5000"])
    repositories: tuple[Repository, ...] = Field(
        default=("pytorch/pytorch",), min_length=1, description="The repositories that tags are chosen from"
    )
    kind: MirrorKind = Field(
        default="static", description="`static`: copies on a schedule; the others fetch an image when it is asked for"
    )
    ca: str | None = Field(
        default=None,
        description="The file of the CA that signed its certificate; none: the CAs of this machine",
        examples=["mirror-ca.pem"],
    )
    plain_http: bool = Field(default=False, description="It is reached by http, without TLS")
    feed: FeedSettings | None = Field(default=None, description="The status that the mirror publishes of its syncs")
    upstream: Upstream | None = Field(default=None, description="The registry that the mirror copies")
    cache_minutes: Annotated[int, Field(ge=0, le=1440)] = Field(
        default=10,
        description="How long a layer that was complete counts as complete without a new check; 0 checks every time",
    )


class Registry(UserInput):
    """The lab's own registry, the only one that nodes pull from. Paths are relative to the lab's directory."""

    address: Address = Field(description="Host and port that nodes pull from", examples=["registry.example:5000"])
    repository: Repository = Field(
        default="provisioner/lab", description="The repository that lab images are pushed to"
    )
    ca: str | None = Field(
        default=None,
        description="The file of the CA that signed its certificate; none: the CAs of the machine",
        examples=["registry-ca.pem"],
    )
    plain_http: bool = Field(default=False, description="It is reached by http, without TLS")
    managed: bool = Field(
        default=False,
        description="`provision prepare` sets it up, on the host of the inventory's group `registry` or else on the "
        "control machine; otherwise an existing registry is used unchanged",
        examples=[True],
    )
    push_port: Annotated[int, Field(ge=1024, le=MAX_PORT)] | None = Field(
        default=None,
        description="The port of a managed registry that takes pushes; none: the one after that of `address`",
        examples=[5001],
    )

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
        following = port + 1 if port < MAX_PORT else port - 1
        return f"{_LOOPBACK if is_local else host}:{self.push_port or following}"


class Service(UserInput):
    """The address a service listens on: the node's loopback or its address in the lab, never all addresses."""

    bind: Literal["loopback", "lan"] = Field(
        description="`loopback`: from the node, or through SSH; `lan`: at the address of the node in the lab",
        examples=["loopback"],
    )


class SshService(Service):
    """SSH of a seat."""

    bind: Literal["loopback", "lan"] = Field(
        default="lan",
        description="`loopback`: from the node, or through SSH; `lan`: at the address of the node in the lab",
    )
    agent_forwarding: bool = Field(
        default=True, description="A student may use the keys of their own machine in the seat, such as for git"
    )


ExtraName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
ExtraPort = Annotated[int, Field(ge=1024, le=MAX_PORT)]


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
    """The services of a seat and their addresses."""

    jupyter: Service = Field(default=Service(bind="loopback"), description="Where Jupyter is reached")
    ssh: SshService = Field(default=SshService(), description="Where SSH is reached")
    extra: Annotated[dict[ExtraName, ExtraPort], Field(max_length=8), AfterValidator(_check_extra)] = Field(
        default={},
        description="Ports inside of a seat by name; Jupyter shows what listens there at its own address, under "
        "/NAME/, and no further port is open",
        examples=[{"tensorboard": 6006}],
    )


def _check_cpus(value: object) -> float | Literal["auto", "none"]:
    if value == "auto" or value == "none":  # noqa: PLR1714  (mypy knows the literal only so)
        return value
    number = 0.0
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(value)
    if not _MIN_CPUS <= number <= _MAX_CPUS:
        raise ValueError(f"neither a number of CPUs nor auto or none: {str(value)[:40]}")
    return number


CpuLimit = Annotated[
    float | Literal["auto", "none"],
    PlainValidator(_check_cpus),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "minimum": _MIN_CPUS, "maximum": _MAX_CPUS}, {"enum": ["auto", "none"]}]}
    ),
]


class Limits(UserInput):
    """Resource limits of each container of a seat."""

    memory: MemoryLimit = Field(
        default="auto", description="A size such as 64g; `auto`: nine tenths of the node's memory; `none`: no limit"
    )
    cpus: CpuLimit = Field(
        default="auto", description="A number of CPUs; `auto`: all CPUs of the node but one; `none`: no limit"
    )
    pids: Annotated[int, Field(ge=256, le=_MAX_PIDS)] = Field(
        default=4096, description="How many processes and threads"
    )
    shm: Size = Field(default="8g", description="The size of /dev/shm, at most half of the memory")


_Port = Annotated[int, Field(ge=1024, le=32767)]


class Ports(UserInput):
    """The range of published ports; each seat uses two. It is below the kernel's ephemeral range (32768)."""

    first: _Port = Field(default=22000, description="The first port")
    last: _Port = Field(default=22999, description="The last port")

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

    first: _Port = Field(default=24000, description="The first port")
    last: _Port = Field(default=24999, description="The last port")


Pools = Annotated[
    tuple[NetworkPool, ...],
    Field(min_length=1, max_length=8),
    BeforeValidator(
        lambda given: [given] if isinstance(given, str) else given,
        json_schema_input_type=NetworkPool | tuple[NetworkPool, ...],
    ),
]


class SeatSettings(UserInput):
    """The seat of a lab without a roster: one on each node, with all of its GPUs."""

    user: UserName = Field(default="student", description="The name of the account in the seat")
    environment: EnvironmentName = Field(
        default=DEFAULT_ENVIRONMENT, description="The environment that these seats run"
    )
    uid: Annotated[int, Field(ge=1000, le=60000)] = Field(default=1000, description="The uid of the account")
    gid: Annotated[int, Field(ge=1000, le=60000)] = Field(default=1000, description="The gid of the account")
    authorized_keys: tuple[str, ...] = Field(
        default=(),
        description="Files of public keys that may log in by SSH, relative to the lab's directory",
        examples=[["keys/ann.pub"]],
    )
    homes: Homes = Field(
        default="/srv/provisioner/homes",
        description="The directory of homes on a node; no rollout deletes or changes what is in a home",
    )
    ports: Ports = Field(default=Ports(), description="The ports of seats; each uses two and keeps them")
    subnets: Pools = Field(
        default=("10.213.0.0/16", "172.29.0.0/16", "192.168.192.0/18"),
        description="Private networks; the containers of each seat get a /28 of the first that is free on its node",
    )
    limits: Limits = Field(default=Limits(), description="Limits of each container")


def _check_day(value: object) -> object:
    """Take a day as it is written only: pydantic reads a number as seconds since 1970."""
    if isinstance(value, str | int | float) and not re.fullmatch(r"\d{4}-\d\d-\d\d", str(value)):
        raise ValueError(f"not a day such as 2027-01-31: {str(value)[:40]}")
    return value


LastDay = Annotated[date, BeforeValidator(_check_day)]


class PeopleSettings(UserInput):
    """Who has a seat."""

    roster: Annotated[str, Field(min_length=1)] = Field(
        description="The file with one person a row, relative to the lab's directory", examples=["roster.csv"]
    )
    term_ends: LastDay | None = Field(
        default=None,
        description="The day after which others get the ports and the subnet of a seat that was stopped until then, "
        "because its person has left the roster; none: never",
        examples=["2027-01-31"],
    )


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
    """Seats that people start themselves, within the ceilings of their group."""

    nodes: Annotated[str, StringConstraints(pattern=r"^\S{1,253}$")] = Field(
        default="*", description="On which nodes: a pattern of their names"
    )
    gpus: GpuPool = Field(
        default=None,
        description="The pool that leases are given from: so many GPUs of each node, or these UUIDs; none: every GPU "
        "that no row of the roster has alone",
        examples=[4],
    )
    unix_group: UnixGroup = Field(
        description="The unix group on the nodes whose accounts may ask", examples=["lab-students"]
    )
    ports: SelfServicePorts = Field(
        default=SelfServicePorts(), description="The ports of these seats; nodes choose them"
    )
    show_names: bool = Field(default=True, description="People see who has the GPUs")

    def covers(self, node: str) -> bool:
        """Whether the node of this name is to have self-service."""
        return fnmatchcase(node, self.nodes)


class Group(UserInput):
    """A group of people: their ceilings on a node, and the limits of their containers."""

    unix: UnixGroup | None = Field(
        default=None,
        description="Accounts of this unix group on a node belong to the group, if the roster does not say another",
        examples=["lab-students"],
    )
    gpus: Annotated[int, Field(ge=0, le=MAX_GPUS)] | None = Field(
        default=None, description="How many GPUs a person may have on a node; none: no ceiling", examples=[1]
    )
    memory: MemoryLimit | None = Field(
        default=None,
        description="Memory of each container, as in seat.limits; none: that of seat.limits",
        examples=["32g"],
    )
    cpus: CpuLimit | None = Field(
        default=None, description="CPUs of each container, as in seat.limits; none: those of seat.limits", examples=[8]
    )
    pids: Annotated[int, Field(ge=256, le=_MAX_PIDS)] | None = Field(
        default=None, description="Processes and threads of each container; none: those of seat.limits", examples=[4096]
    )
    shm: Size | None = Field(
        default=None, description="The size of /dev/shm; none: that of seat.limits", examples=["8g"]
    )
    disk: Size | None = Field(
        default=None,
        description="What home and containers of a seat should stay below: measured each night and warned of, and "
        "nothing enforces it",
        examples=["100g"],
    )
    hours: Hours = Field(default=24, description="Of seats that people start themselves: the longest lease, in hours")
    idle_hours: Hours | None = Field(
        default=None,
        description="Of seats that people start themselves: the hours without use after which a lease ends; none: "
        "never",
        examples=[4],
    )
    grace_minutes: Annotated[float, Field(ge=0, le=1440, allow_inf_nan=False)] = Field(
        default=10,
        description="Of seats that people start themselves: the minutes between the end of a lease and the stop of "
        "the seat",
    )
    environments: Annotated[tuple[EnvironmentName, ...], Field(min_length=1)] = Field(
        default=("default",), description="The environments that its people may have", examples=[["default", "nlp"]]
    )


class FetchSettings(UserInput):
    """How `provision fetch` brings images to the nodes before a rollout."""

    windows: tuple[Window, ...] = Field(
        default=(),
        description="The hours in which a pull may begin, in the timezone of rollout; empty: always. A freeze does not "
        "count, as nothing that runs changes",
    )
    bandwidth: Size | None = Field(
        default=None,
        description="What the nodes together take from the registry in a second, on average; none: as fast as it goes",
        examples=["60m"],
    )


class RolloutSettings(UserInput):
    """How a rollout proceeds, and when it may begin."""

    waves: tuple[Share, ...] = Field(
        default=("1", "25%", "100%"),
        min_length=1,
        description="How many nodes are changed by the end of each wave: numbers, or percentages in quotes; a last "
        "wave changes the rest",
    )
    max_failures: Share = Field(
        default="0",
        description="How many nodes, or which percentage, may fail or be rolled back before no further wave starts",
    )
    pull_concurrency: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None,
        description="How many nodes pull at once; none: from the throughput of the first pulls",
        examples=[8],
    )
    prefetch: bool = Field(
        default=True,
        description="Whether the nodes of later waves pull while a wave switches; nothing is stopped earlier by it",
    )
    forks: Annotated[int, Field(ge=1, le=200)] | None = Field(
        default=None,
        description="How many nodes Ansible works on at once; none: from the size of the lab",
        examples=[20],
    )
    min_healthy_seconds: Annotated[int, Field(ge=0, le=600)] = Field(
        default=5, description="How long a new seat has to be healthy before it counts as such"
    )
    healthy_deadline_seconds: Annotated[int, Field(ge=10, le=3600)] = Field(
        default=180, description="After so long a seat that is not healthy has failed"
    )
    pull_deadline_seconds: Annotated[int, Field(ge=60, le=86400)] = Field(
        default=7200, description="After so long a pull that goes on has failed"
    )
    freeze: tuple[Freeze, ...] = Field(default=(), description="Days without changes")
    windows: tuple[Window, ...] = Field(default=(), description="The hours in which a change may begin; empty: always")
    timezone: TimeZone | None = Field(
        default=None, description="The time zone of freeze and windows, required with them", examples=["Asia/Shanghai"]
    )

    fetch: FetchSettings = Field(
        default=FetchSettings(), description="How images are brought to the nodes before a rollout (`provision fetch`)"
    )

    @model_validator(mode="after")
    def _has_timezone(self) -> Self:
        if (self.freeze or self.windows or self.fetch.windows) and self.timezone is None:
            raise ValueError(
                "freeze and windows need a timezone beside them, such as Europe/Berlin: whose clock counts"
            )
        return self

    @property
    def calendar(self) -> Calendar:
        """The maintenance calendar."""
        return Calendar(self.freeze, self.windows, ZoneInfo(self.timezone or "UTC"))

    @property
    def fetch_calendar(self) -> Calendar:
        """When pulls before a rollout may begin."""
        return Calendar((), self.fetch.windows, ZoneInfo(self.timezone or "UTC"))


class PackageSource(UserInput):
    """A mirror of a vendor's packages."""

    uri: PackagePlace = Field(
        description="The address of the packages, as in the sources of apt; $(ARCH) is the architecture of the node",
        examples=["https://mirrors.tuna.tsinghua.edu.cn/docker-ce/linux"],
    )
    key: str = Field(
        description="The file of the key that signs them, relative to the lab's directory", examples=["docker.asc"]
    )


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

    deadline_seconds: Annotated[int, Field(ge=60, le=86400)] = Field(
        default=1800, description="The time limit of one command of a node's package manager"
    )
    docker: PackageSources = Field(default=(), description="Sources of Docker's packages")
    nvidia: PackageSources = Field(default=(), description="Sources of NVIDIA's container toolkit")


class Lab(UserInput):
    """The settings of one lab. `schema` is for editors; `init` writes the fields in this order."""

    schema_: str | None = Field(
        default=None,
        alias="$schema",
        description="The JSON Schema that an editor completes this file from, written by `provision schema`",
        examples=["lab.schema.json"],
    )
    name: Slug = Field(
        description="Part of the name of every container: at most 31 lower-case letters, digits and -", examples=["ml"]
    )
    mirror: Mirror = Field(description="The source of base images")
    registry: Registry = Field(description="The lab's own registry")
    image: ImageSettings = Field(default=ImageSettings(), description="The environment `default`")
    environments: Environments = Field(
        default={}, description="Further environments by name: lower-case letters, digits, _ and -"
    )
    inside: Inside = Field(default=Inside(), description="Settings of tools in every seat")
    mounts: Mounts = Field(default=(), description="Folders of the nodes that every seat sees")
    services: Services = Field(default=Services(), description="How a seat is reached")
    seat: SeatSettings = Field(
        default=SeatSettings(),
        validate_default=True,
        description="The seat of a node, and what all seats share: homes, ports, networks, limits",
    )
    people: PeopleSettings | None = Field(
        default=None, description="A seat for each person of a roster; none: one for each node"
    )
    self_service: SelfService | None = Field(
        default=None, description="Seats that people start themselves; none: people start none"
    )
    groups: dict[GroupName, Group] = Field(
        default={}, description="Groups of people by name; `student` is that of people who are in no other"
    )
    rollout: RolloutSettings = Field(default=RolloutSettings(), description="How nodes are changed")
    prepare: PrepareSettings = Field(default=PrepareSettings(), description="How nodes are prepared")

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
