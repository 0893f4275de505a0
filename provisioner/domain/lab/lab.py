"""The wish: what `lab.yml` may say. Written by a person, so every unknown word is a mistake."""

import re
from ipaddress import IPv4Address
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from provisioner.domain.lab.calendar import Calendar, Freeze, Window
from provisioner.domain.lab.waves import Share
from provisioner.domain.values.feed_format import FeedFormat
from provisioner.domain.values.image import Flavour
from provisioner.domain.values.model import UserInput

_ADDRESS = r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)(:\d{1,5})?$"
Address = Annotated[str, StringConstraints(pattern=_ADDRESS)]
Repository = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+([._/-]+[a-z0-9]+)*$")]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
UserName = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,30}$")]
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9._-]+)+$")]
Size = Annotated[str, StringConstraints(pattern=r"^[1-9]\d*[kmg]$")]
FeedPlace = Annotated[str, StringConstraints(pattern=r"^(https?://[^\s/@]+(/\S*)?|[^\s:]+)$")]
# One line of plain characters: it becomes a line of apt's sources. $(ARCH) stands for what dpkg calls the node's.
PackagePlace = Annotated[
    str, StringConstraints(pattern=r"^https?://[A-Za-z0-9.-]+(:\d{1,5})?(/[A-Za-z0-9._~$()-]+)*/?$")
]
MirrorKind = Literal["static", "registry-proxy", "harbor-proxy", "lazy", "redirector"]

# What is not there yet comes when it is asked for, and no clock says when.
ON_DEMAND: frozenset[MirrorKind] = frozenset({"registry-proxy", "harbor-proxy", "lazy", "redirector"})


def _specifier(text: str) -> str:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # noqa: PLC0415  (only where a wish is read)

    try:
        SpecifierSet(text if re.match(r"[<>=!~]", text) else f"=={text}")
    except InvalidSpecifier:
        raise ValueError(f"not a version or a range such as 2.8.0 or >=2.6,<3: {text!r}") from None
    return text


TorchSpec = Annotated[str, AfterValidator(_specifier)]


def _zone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):  # not found, a way out of the folder, a folder
        raise ValueError(f"no time zone is named so: {text!r}") from None
    return text


TimeZone = Annotated[str, AfterValidator(_zone)]


class FeedSettings(UserInput):
    """What the mirror publishes of its own syncs. `url` may be a file, relative to the lab's directory."""

    url: FeedPlace
    job: Annotated[str, StringConstraints(min_length=1)]
    format: FeedFormat = "tunasync"


class Upstream(UserInput):
    """The registry that the mirror copies: asked first, since what it does not have no mirror will ever have.

    `repositories` where they have other names there than on the mirror. `fallback`: the whole lab may be taken from it
    where the mirror serves less of the lab.
    """

    address: Address
    repositories: tuple[Repository, ...] = ()
    ca: str | None = None
    plain_http: bool = False
    fallback: bool = False


class Mirror(UserInput):
    """Where base images come from. Paths are relative to the lab's directory.

    `cache_minutes`: for how long a layer that was seen whole here counts as whole without asking; 0: every look asks.
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
    """The lab's own registry: the nodes pull from here alone. Paths are relative to the lab's directory.

    `managed`: `provision prepare` sets it up, on the host of the inventory's group `registry` or else on the control
    machine. Otherwise it is one that is there, and used as it is.
    """

    address: Address
    repository: Repository = "provisioner/lab"
    ca: str | None = None
    plain_http: bool = False
    managed: bool = False

    @model_validator(mode="after")
    def _with_tls(self) -> Self:
        if self.managed and self.plain_http:
            raise ValueError("a registry that provision sets up speaks TLS: take plain_http away, or managed")
        return self


class ImageSettings(UserInput):
    """Which environment. `complete` says that the mirror's images hold Jupyter and sshd already."""

    torch: TorchSpec = ">=2"
    flavour: Flavour = "runtime"
    complete: bool = False
    apt_mirror: str | None = None  # replaces the host part of the image's own package sources while it is built


class Service(UserInput):
    """`bind`: the node's loopback, or the address by which the node is known in the lab. Never every address."""

    bind: Literal["loopback", "lan"]


class Services(UserInput):
    jupyter: Service = Service(bind="loopback")
    ssh: Service = Service(bind="lan")


class Limits(UserInput):
    """Ceilings of each service of a seat. None: the engine's own, which is none."""

    memory: Size | None = None
    cpus: Annotated[float, Field(gt=0)] | None = None
    pids: Annotated[int, Field(ge=256)] = 4096
    shm: Size = "8g"


class Ports(UserInput):
    """Ports to publish from; each seat takes two. Below the kernel's own range (32768), so nothing else grabs them."""

    first: Annotated[int, Field(ge=1024, le=32767)] = 22000
    last: Annotated[int, Field(ge=1024, le=32767)] = 22999

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.last <= self.first:
            raise ValueError("last must be greater than first: a seat needs two ports")
        return self


class SeatSettings(UserInput):
    """The seat of a lab without a roster: one on each node, all of its GPUs."""

    user: UserName = "student"
    uid: Annotated[int, Field(ge=1000, le=60000)] = 1000
    gid: Annotated[int, Field(ge=1000, le=60000)] = 1000
    authorized_keys: tuple[str, ...] = Field(default=(), description="Public key files, relative to the lab")
    homes: AbsolutePath = "/srv/provisioner/homes"
    ports: Ports = Ports()
    limits: Limits = Limits()


class RolloutSettings(UserInput):
    """How a rollout goes on. None: `forks` are chosen from the lab's size, `pull_concurrency` from what is measured.

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
    def _told_by_a_clock(self) -> Self:
        if (self.freeze or self.windows) and self.timezone is None:
            raise ValueError(
                "freeze and windows need a timezone beside them, such as Europe/Berlin: whose clock counts"
            )
        return self

    @property
    def calendar(self) -> Calendar:
        return Calendar(self.freeze, self.windows, ZoneInfo(self.timezone or "UTC"))


class PackageSource(UserInput):
    """A mirror of a vendor's packages. `key` is the file (relative to the lab's directory) they are signed by."""

    uri: PackagePlace
    key: str


class PrepareSettings(UserInput):
    """How bare nodes are made ready. A source None: packages come from the sources that the node has itself."""

    deadline_seconds: Annotated[int, Field(ge=60, le=86400)] = 1800
    docker: PackageSource | None = None
    nvidia: PackageSource | None = None


class Lab(UserInput):
    """One lab. `schema` is for editors; the order of fields is the order in which `init` writes them."""

    schema_: str | None = Field(default=None, alias="$schema")
    name: Slug
    mirror: Mirror
    registry: Registry
    image: ImageSettings = ImageSettings()
    services: Services = Services()
    seat: SeatSettings = SeatSettings()
    rollout: RolloutSettings = RolloutSettings()
    prepare: PrepareSettings = PrepareSettings()


def lan_address(candidates: tuple[str, ...], host: str | None) -> str | None:
    """The address that "lan" means on a node: how Ansible reaches it where that is an address, else its first own."""
    for text in (host or "", *candidates):
        try:
            return str(IPv4Address(text))
        except ValueError:
            continue
    return None
