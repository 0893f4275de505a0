"""The compose project of a seat as a closed model: an option without a field here cannot be used.

So a compose file cannot ask for privileged mode, namespaces of the host, devices or more capabilities, and cannot use
`build`, `include`, `extends` or `env_file`.
"""

import re
import unicodedata
from ipaddress import IPv4Address
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from provisioner.domain.lab.mounts import Source
from provisioner.domain.seat.fill import HOST_NAME, MAX_USER_ID, SYSTEM_FOLDER
from provisioner.domain.seat.seat import ServiceName
from provisioner.domain.values.model import UserInput
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.size import Size
from provisioner.domain.values.subnet import Network

_SECRET = re.compile("token|secret|passw|credential|api_?key", re.IGNORECASE)


def _check_printable(text: str) -> str:
    if bad := next((c for c in text if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"}), None):
        raise ValueError(f"contains the control character U+{ord(bad):04X}")
    return text


def _check_pinned(text: str) -> str:
    reference = ImageReference.parse(text)
    if reference.registry is None or reference.digest is None or reference.tag is not None:
        raise ValueError("must be registry/repository@digest")
    return text


def _check_interface_address(text: str) -> str:
    address = IPv4Address(text)
    if address.is_unspecified or address.is_multicast or str(address) != text:
        raise ValueError("must be the address of one interface")
    return text


def _check_user_ids(text: str) -> str:
    if any(int(number) > MAX_USER_ID for number in text.split(":")):
        raise ValueError(f"an account has a number up to {MAX_USER_ID}")
    return text


def _check_home(text: str) -> str:
    if {".", ".."} & set(text.split("/")) or re.match(SYSTEM_FOLDER, text):
        raise ValueError("must not be a system folder")
    return text


def _check_not_secret(name: str) -> str:
    if _SECRET.search(name) and not name.endswith("_FILE"):
        raise ValueError("looks like a secret, and everyone with access to the engine could read it")
    return name


Text = Annotated[str, AfterValidator(_check_printable)]
ProjectName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
HostName = Annotated[str, StringConstraints(pattern=f"^{HOST_NAME}$")]
PinnedImage = Annotated[str, AfterValidator(_check_pinned)]
NonRootUser = Annotated[
    str, StringConstraints(pattern=r"^[1-9][0-9]{0,9}:[1-9][0-9]{0,9}$"), AfterValidator(_check_user_ids)
]
# The user's name must have no character with a meaning for sshd's AllowUsers: no space, quote, wildcard or @.
ContainerHome = Annotated[str, StringConstraints(pattern=r"^/home/[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$")]
InterfaceAddress = Annotated[str, AfterValidator(_check_interface_address)]
GpuName = Annotated[str, StringConstraints(pattern=r"^(nvidia\.com/gpu=)?(GPU|MIG)(-[0-9a-fA-F]+){5}$")]
Seconds = Annotated[str, StringConstraints(pattern=r"^[1-9]\d{0,3}s$")]
Count = Annotated[str, StringConstraints(pattern=r"^[1-9]\d?$")]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), AfterValidator(_check_not_secret)]
HomeFolder = Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9._@+-]+){2,}$"), AfterValidator(_check_home)]
SeatFile = Annotated[
    str,
    StringConstraints(pattern=r"^(\./[a-z]([a-z_-]|\.[a-z])*|\.\./\.\./(notice|identity/[a-z]([a-z0-9_]|\.[a-z])*))$"),
]


class BindOptions(UserInput):
    """Options of a bind mount: a missing source is an error and is not created. `rslave`: for a mount with autofs."""

    create_host_path: Literal[False]
    propagation: Literal["rslave"] | None = None


class Bind(UserInput):
    """A bind mount.

    `source` is the home, a file of the seat's generation or identity, the folder of its notice, or that of a mount.
    """

    type: Literal["bind"] = "bind"
    source: HomeFolder | SeatFile | Source
    target: Text
    read_only: bool
    bind: BindOptions = BindOptions(create_host_path=False)


class Port(UserInput):
    """A published TCP port. `published` is text, as Compose requires; `host_ip` is one address, never a wildcard."""

    target: int
    published: Annotated[str, StringConstraints(pattern=r"^[1-9]\d{3,4}$")]
    host_ip: InterfaceAddress
    protocol: Literal["tcp"] = "tcp"


class Device(UserInput):
    """A reservation of GPUs by name: there is no `count` and no `all`."""

    driver: Literal["nvidia", "cdi"]
    device_ids: tuple[GpuName, ...] = Field(min_length=1)
    capabilities: tuple[Literal["gpu"]] = ("gpu",)


class Reservations(UserInput):
    """The reserved devices: exactly one entry."""

    devices: tuple[Device]


class Resources(UserInput):
    """The resources of a service; limits are fields of the service itself."""

    reservations: Reservations


class Deploy(UserInput):
    """The `deploy` section, which reserves GPUs and nothing else."""

    resources: Resources


class Healthcheck(UserInput):
    """The health check of a service. `start_interval` needs Docker 25."""

    test: tuple[Text, ...]
    interval: Seconds
    timeout: Seconds
    retries: Annotated[int, Field(ge=1, le=10)]
    start_period: Seconds
    start_interval: Seconds | None = None


class LogOptions(UserInput):
    """Limits of the log files of a container."""

    model_config = ConfigDict(serialize_by_alias=True)

    max_size: Annotated[Size, Field(alias="max-size")]
    max_file: Annotated[Count, Field(alias="max-file")]


class Logging(UserInput):
    """The logging section: a local driver with a limited size."""

    driver: Literal["local", "json-file"]
    options: LogOptions


class OpenFiles(UserInput):
    """The soft and the hard limit of open files of a process."""

    soft: Annotated[int, Field(gt=0)]
    hard: Annotated[int, Field(gt=0)]


class Ulimits(UserInput):
    """Limits of a process: `memlock` and `stack` in bytes (-1: unlimited), `nofile` in files."""

    memlock: Annotated[int, Field(ge=-1)]
    stack: Annotated[int, Field(gt=0)]
    nofile: OpenFiles | None = None


class Service(UserInput):
    """A service of the seat: it runs without root, capabilities and new privileges, from an image by digest."""

    image: PinnedImage
    pull_policy: Literal["never"]
    user: NonRootUser
    hostname: HostName
    working_dir: ContainerHome
    entrypoint: tuple[Text, ...]
    init: Literal[True]
    restart: Literal["unless-stopped", "no"]
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
    networks: tuple[Literal["seat"]]
    ports: tuple[Port]
    volumes: tuple[Bind, ...]
    deploy: Deploy | None = None
    healthcheck: Healthcheck
    logging: Logging
    labels: dict[str, Text]


class SubnetChoice(UserInput):
    """The subnet of a network."""

    subnet: Network


class AddressManagement(UserInput):
    """How a network gets its addresses: from exactly one subnet."""

    config: tuple[SubnetChoice]


class SeatNetwork(UserInput):
    """The network of a seat: a bridge of its own, with a subnet that is given to it. It has no options of a driver."""

    ipam: AddressManagement


class ComposeProject(UserInput):
    """The compose project of one seat."""

    name: ProjectName
    services: dict[ServiceName, Service]
    networks: dict[Literal["seat"], SeatNetwork]
