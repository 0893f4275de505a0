"""A seat's compose project as a closed model: what has no field here can't be run.

There is none for privileged, host namespaces, devices, added capabilities, networks, build, include, extends, env_file.
"""

import re
import unicodedata
from ipaddress import IPv4Address
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from provisioner.domain.seat.seat import ServiceName
from provisioner.domain.values.model import UserInput
from provisioner.domain.values.reference import ImageReference

# What a seat's home can never lie in: the system's own folders, and the engine's socket and data.
_SYSTEM = re.compile(r"/(bin|boot|dev|etc|lib\w*|proc|root|run|sbin|sys|usr|var/(run|lib/(docker|containerd)))(/|$)")
_SECRET = re.compile("token|secret|passw|credential|api_?key", re.IGNORECASE)


def _printable(text: str) -> str:
    if bad := next((c for c in text if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"}), None):
        raise ValueError(f"holds the control character U+{ord(bad):04X}")
    return text


def _by_digest(text: str) -> str:
    reference = ImageReference.parse(text)
    if reference.registry is None or reference.digest is None or reference.tag is not None:
        raise ValueError("not registry/repository@digest")
    return text


def _one_address(text: str) -> str:
    address = IPv4Address(text)
    if address.is_unspecified or address.is_multicast or str(address) != text:
        raise ValueError("not the address of one interface")
    return text


def _home(text: str) -> str:
    if {".", ".."} & set(text.split("/")) or _SYSTEM.match(text):
        raise ValueError("not a folder for homes")
    return text


def _not_secret(name: str) -> str:
    if _SECRET.search(name) and not name.endswith("_FILE"):
        raise ValueError("looks like a secret, which anyone who may ask the engine could read")
    return name


Text = Annotated[str, AfterValidator(_printable)]
ProjectName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
HostName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,61}[a-zA-Z0-9])?$")]
PinnedImage = Annotated[str, AfterValidator(_by_digest)]
NotRoot = Annotated[str, StringConstraints(pattern=r"^[1-9]\d*:[1-9]\d*$")]
# Of the user's name nothing may mean something to sshd's AllowUsers: no space, quote, wildcard or @.
InnerHome = Annotated[str, StringConstraints(pattern=r"^/home/[A-Za-z_][A-Za-z0-9._-]{0,63}$")]
OneAddress = Annotated[str, AfterValidator(_one_address)]
GpuName = Annotated[str, StringConstraints(pattern=r"^(nvidia\.com/gpu=)?(GPU|MIG)(-[0-9a-fA-F]+){5}$")]
Size = Annotated[str, StringConstraints(pattern=r"^[1-9]\d*[kmg]$")]
Seconds = Annotated[str, StringConstraints(pattern=r"^[1-9]\d{0,3}s$")]
Count = Annotated[str, StringConstraints(pattern=r"^[1-9]\d?$")]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), AfterValidator(_not_secret)]
HomeFolder = Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9._@+-]+){2,}$"), AfterValidator(_home)]
OwnFile = Annotated[
    str,
    StringConstraints(pattern=r"^(\./[a-z]([a-z_-]|\.[a-z])*|\.\./\.\./(notice|identity/[a-z]([a-z0-9_]|\.[a-z])*))$"),
]


class BindOptions(UserInput):
    create_host_path: Literal[False]


class Bind(UserInput):
    """`source` is the home, a file of the seat's generation or identity, or the folder of its notice."""

    type: Literal["bind"] = "bind"
    source: HomeFolder | OwnFile
    target: Text
    read_only: bool
    bind: BindOptions = BindOptions(create_host_path=False)


class Port(UserInput):
    """`published` is text, as Compose wants it; `host_ip` is never every address."""

    target: int
    published: Annotated[str, StringConstraints(pattern=r"^[1-9]\d{3,4}$")]
    host_ip: OneAddress
    protocol: Literal["tcp"] = "tcp"


class Device(UserInput):
    """GPUs by name only: there is no `count` and no `all`."""

    driver: Literal["nvidia", "cdi"]
    device_ids: tuple[GpuName, ...] = Field(min_length=1)
    capabilities: tuple[Literal["gpu"]] = ("gpu",)


class Reservations(UserInput):
    devices: tuple[Device]


class Resources(UserInput):
    reservations: Reservations


class Deploy(UserInput):
    resources: Resources


class Healthcheck(UserInput):
    test: tuple[Text, ...]
    interval: Seconds
    timeout: Seconds
    retries: Annotated[int, Field(ge=1, le=10)]
    start_period: Seconds
    start_interval: Seconds | None = None


class LogOptions(UserInput):
    model_config = ConfigDict(serialize_by_alias=True)

    max_size: Annotated[Size, Field(alias="max-size")]
    max_file: Annotated[Count, Field(alias="max-file")]


class Logging(UserInput):
    driver: Literal["local", "json-file"]
    options: LogOptions


class Ulimits(UserInput):
    memlock: Annotated[int, Field(ge=-1)]
    stack: Annotated[int, Field(gt=0)]


class Service(UserInput):
    image: PinnedImage
    pull_policy: Literal["never"]
    user: NotRoot
    hostname: HostName
    working_dir: InnerHome
    entrypoint: tuple[Text, ...]
    init: Literal[True]
    restart: Literal["unless-stopped"]
    stop_grace_period: Seconds
    cap_drop: tuple[Literal["ALL"]]
    security_opt: tuple[Literal["no-new-privileges:true"]]
    pids_limit: Annotated[int, Field(gt=0)]
    mem_limit: Size | None = None
    memswap_limit: Size | None = None
    cpus: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    shm_size: Size
    ulimits: Ulimits
    environment: dict[EnvName, Text]
    ports: tuple[Port]
    volumes: tuple[Bind, ...]
    deploy: Deploy | None = None
    healthcheck: Healthcheck
    logging: Logging
    labels: dict[str, Text]


class ComposeProject(UserInput):
    name: ProjectName
    services: dict[ServiceName, Service]
