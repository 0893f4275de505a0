"""The facts of a node: its GPUs, its driver, its engine, and the reason for each missing fact."""

from collections import Counter
from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from provisioner.domain.values.claim import MAX_FENCE, Claim
from provisioner.domain.values.limits import Capacity, SeatLimits
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.reference import Digest
from provisioner.domain.values.subnet import Network
from provisioner.domain.values.version import ComputeCapability, CudaVersion, DottedVersion, DriverVersion

KernelModule = Literal["open", "proprietary"]
ToolkitMode = Literal["legacy", "cdi"]
# These values go from a node into the seat of this node, into the lock and into requests: anything else is refused.
PlatformName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{1,16}/[a-z0-9_]{1,16}(/[a-z0-9]{1,16})?$")]
GPU_UUID_PATTERN = r"^(GPU|MIG)(-[0-9a-fA-F]{1,16}){5}$"
GpuUuid = Annotated[str, StringConstraints(pattern=GPU_UUID_PATTERN)]
UserId = Annotated[int, Field(ge=0, lt=1 << 32)]  # also of a group
AccountName = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f:/]+$", max_length=255)]
HomePath = Annotated[str, StringConstraints(pattern=r"^(/[^\x00-\x1f\x7f]*)?$", max_length=4096)]
PortNumber = Annotated[int, Field(ge=0, le=65535)]
DiskBytes = Annotated[int, Field(ge=0, lt=1 << 63)]
_ShortText = Annotated[str, Field(max_length=255)]
_MAX_GPUS = 256  # MIG devices included
_MAX_SEATS = 4096
_MAX_ROUTES = 8192  # also of a machine that runs thousands of containers
_MAX_FILES = 256
_MAX_ACCOUNTS = 4096
_MAX_GROUPS = 256  # of an account


class GpuProcess(Value):
    """A process that NVML reports on a GPU. `pid` is the host's; memory in bytes, None if NVML does not report it.

    `container` is the name of the container that it runs in, None outside of containers.
    """

    pid: int
    kind: Literal["compute", "graphics"]
    used_memory: int | None = None
    user: str | None = None
    command: str | None = None
    container: str | None = None


class Gpu(Value):
    """One GPU. A GPU that was lost has problems and no `compute_capability`.

    The MIG devices (GPU instances) of a card follow it, with its index, brand and compute capability.
    """

    index: int
    instance: int | None = None  # of a MIG device: its number on the card
    uuid: GpuUuid | None = None
    name: str = ""
    brand: str = ""  # lower case, as NVIDIA_REQUIRE_CUDA writes it: geforce, tesla, titan, …
    compute_capability: ComputeCapability | None = None
    memory_total: int | None = None  # bytes
    memory_used: int | None = None  # bytes
    utilization: int | None = None  # per cent of the last second, by all processes
    pci_bus_id: str | None = None
    mig_enabled: bool | None = None  # None: the card has no MIG
    processes: tuple[GpuProcess, ...] | None = None  # None: NVML does not report them; unknown counts as busy
    problems: tuple[Problem, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether a seat can use the GPU: it has a UUID and a compute capability, no problem, and is not split."""
        has_name = self.uuid is not None and self.compute_capability is not None
        return has_name and not self.problems and not self.mig_enabled


def _mig_mode(gpu: Gpu, devices: int) -> Problem:
    """Return why a card in MIG mode, with so many MIG devices, is not used."""
    if devices:
        what, why = (
            f"its {devices} MIG devices are not used, because the node has whole cards, too",
            "a program that sees a MIG device sees no whole card (MIG User Guide, CUDA device enumeration)",
        )
    else:
        what, why = "it has no MIG device", "a card in this mode computes by its MIG devices only (MIG User Guide)"
    return Problem(
        "mig_mode",
        f"GPU {gpu.index} ({gpu.name}) is in MIG mode: {what}",
        why,
        f"while the card is idle, on the node: nvidia-smi -i {gpu.index} -mig 0 (on some cards a GPU reset follows)"
        + (", or split the other cards, too" if devices else ", or create devices: nvidia-smi mig -cgi PROFILE -C"),
    )


class EngineFacts(Value):
    """The container engine of a node."""

    version: Annotated[str, Field(max_length=100)]
    compose_version: Annotated[str, Field(max_length=100)] | None = None
    storage_driver: str = ""
    cgroup_driver: str = ""
    runtimes: tuple[str, ...] = ()
    root_dir: str = ""
    image_store: str = ""  # the folder of its images: root_dir, or that of containerd
    free_bytes: int | None = None  # at the image store
    capacity: Capacity = Capacity()


class DiskUse(Value):
    """What a seat used when it was measured. `complete` False: at least so much.

    `layer_bytes`: written into its containers, outside the home; None: the engine did not answer.
    """

    measured_at: datetime
    home_bytes: DiskBytes
    layer_bytes: DiskBytes | None = None
    complete: bool = False

    @property
    def total(self) -> int:
        """The bytes of home and containers."""
        return self.home_bytes + (self.layer_bytes or 0)


SELF_SERVICE = "self_service"  # the kind of a seat that its person has started through the broker of the node


class RunningSeat(Value):
    """A seat as the node records and runs it. A plan is compared with this."""

    name: str
    kind: str = ""  # self_service: no plan changes it
    lab: str = ""  # empty: the node's record does not say
    generation: int
    image: str  # reference by digest
    # Rendered files in force: path within the seat -> text.
    files: Annotated[dict[str, str], Field(max_length=_MAX_FILES)] = {}
    ports: dict[str, PortNumber] = {}  # service -> published port
    subnet: Network | Literal[""] = ""  # of its containers; empty: an earlier release has set it up
    gpus: tuple[str, ...] = ()  # UUIDs reserved
    shared: bool = False  # whether other seats may use these GPUs, too
    person: str = ""  # whose seat it is, as the roster names them; empty: that of the node
    uid: UserId | None = None  # of its user; None: the node's record does not say
    home: HomePath = ""  # empty: the node's record does not say
    environment: Annotated[_ShortText, Field(exclude_if=lambda name: name in {"", "default"})] = ""
    limits: SeatLimits | None = None  # of each container; None: the node's record does not say
    capacity: Capacity | None = None  # from which the limits were computed; None: by a release without such limits
    host_key: str = ""  # public half, "ssh-ed25519 AAAA…"
    since: date | None = None  # the day on which it was set up for the first time
    stopped_on: date | None = None  # the day on which it was stopped; None: it was started since, or never stopped
    services: dict[str, str] = {}  # service -> running | healthy | unhealthy | exited | missing
    state: str = "committed"  # of its last transaction
    layer_bytes: int | None = None  # in its containers' writable layers; None: the engine does not report it
    disk: DiskUse | None = None  # None: never measured
    disk_limit: DiskBytes | None = None  # that the node warns of; None: no limit
    at_work: tuple[str, ...] = ()  # processes on its GPUs, or why they are not known; checked again before a switch
    drift: tuple[Problem, ...] = ()  # differences between what runs and what was committed
    home_fault: Problem | None = None  # of its last start, where it needed an empty home, and while it is not healthy
    run: str = ""  # the last run that changed it or tried to
    previous: int = 0  # the generation that a rollback restores; 0: none, or its image was removed

    @property
    def is_self_service(self) -> bool:
        """Whether its person has started it through the broker of the node."""
        return self.kind == SELF_SERVICE

    @property
    def is_down(self) -> bool:
        """Whether the seat has a generation and no container: it was stopped, and can be started again."""
        return bool(self.generation) and bool(self.services) and set(self.services.values()) == {"missing"}

    @property
    def runs(self) -> bool:
        """Whether the seat has a generation and was not stopped, also where its containers are unhealthy."""
        return bool(self.generation) and not self.is_down

    @property
    def unreadable(self) -> tuple[Problem, ...]:
        """Why the node cannot read its records of the seat, so that the generation is unknown; else empty."""
        return self.drift if self.state == "damaged" and not self.generation else ()


class Lease(Value):
    """A lease of a self-service seat. `left_s`: seconds until its end, None where it has none.

    `environment` and `version`: what the seat runs.
    """

    seat: _ShortText
    person: _ShortText = ""
    uid: UserId | None = None
    gpus: Annotated[tuple[GpuUuid, ...], Field(max_length=_MAX_GPUS)] = ()
    state: _ShortText = ""
    left_s: Annotated[float, Field(allow_inf_nan=False)] | None = None
    environment: _ShortText = ""
    version: _ShortText = ""


class SelfServiceFacts(Value):
    """What is installed on a node for seats that people start themselves.

    `config`: the SHA-256 of its configuration, empty where it has none that can be read. `version`: of its program.
    `environments`: name -> version. `waiting`: people in the queue.
    """

    lab: _ShortText
    config: _ShortText = ""
    pool: Annotated[tuple[GpuUuid, ...], Field(max_length=_MAX_GPUS)] = ()
    version: _ShortText = ""
    runs: bool = False
    started_by: _ShortText = "none"
    environments: Annotated[dict[_ShortText, _ShortText], Field(max_length=_MAX_GPUS)] = {}
    leases: Annotated[tuple[Lease, ...], Field(max_length=_MAX_SEATS)] = ()
    waiting: Annotated[int, Field(ge=0, lt=1 << 32)] = 0


class Account(Value):
    """An account of a node, looked up by its name. `uid` None: there is no account of this name.

    `home` empty: none that is an absolute path. `groups`: the names of its unix groups.
    """

    uid: UserId | None = None
    gid: UserId | None = None
    home: HomePath = ""
    groups: Annotated[tuple[AccountName, ...], Field(max_length=_MAX_GROUPS)] = ()


class NodeFacts(Value):
    """All facts of one node, as the probe reports them.

    `absent_because` gives the reason for each missing fact ("driver": "driver not loaded", …); a missing fact without a
    reason is a bug.
    """

    name: str
    hostname: str = ""
    platform: PlatformName = "linux/amd64"
    addresses: tuple[str, ...] = ()
    routes: Annotated[tuple[Network, ...], Field(max_length=_MAX_ROUTES)] = ()  # without the default route
    driver: DriverVersion | None = None
    cuda_driver: CudaVersion | None = None
    kernel_module: KernelModule | None = None
    toolkit_mode: ToolkitMode | None = None
    toolkit_version: DottedVersion | None = None
    libnvidia_container_version: DottedVersion | None = None
    cdi_devices: tuple[str, ...] = ()
    gpus: Annotated[tuple[Gpu, ...], Field(max_length=_MAX_GPUS)] = ()
    pci_gpus: int | None = None  # NVIDIA display devices on the PCI bus
    engine: EngineFacts | None = None
    clock_offset: float | None = None  # seconds, node minus control machine
    seats: Annotated[tuple[RunningSeat, ...], Field(max_length=_MAX_SEATS)] = ()
    # Of the names that were asked for; a name that is missing was not answered in time, see `absent_because`.
    accounts: Annotated[dict[AccountName, Account], Field(max_length=_MAX_ACCOUNTS)] = {}
    self_service: SelfServiceFacts | None = None  # None: nothing is installed
    claims: Annotated[tuple[Claim, ...], Field(max_length=_MAX_SEATS)] = ()  # of the runs that are changing it
    fence: Annotated[int, Field(ge=0, le=MAX_FENCE)] = 0  # the highest fence of any claim so far
    last: Claim | None = None  # of the last run that released the node
    images: tuple[Digest, ...] = ()  # digests the engine already has
    kept: tuple[str, ...] = ()  # references of all generations of its seats: running, committed, for a rollback
    absent_because: dict[str, str] = {}
    problems: tuple[Problem, ...] = ()

    @property
    def offered_gpus(self) -> tuple[Gpu, ...]:
        """The GPUs for a seat, in NVML's order: whole cards, and MIG devices where the node has no whole card.

        A program that sees a MIG device sees no whole card, and of several MIG devices it uses the first.
        """
        usable = tuple(gpu for gpu in self.gpus if gpu.usable)
        return tuple(gpu for gpu in usable if gpu.instance is None) or usable

    @property
    def gpu_problems(self) -> tuple[Problem, ...]:
        """What keeps GPUs from a seat: problems that the node reports, and cards in MIG mode that are not used."""
        whole = any(gpu.usable and gpu.instance is None for gpu in self.gpus)
        devices = Counter(gpu.index for gpu in self.gpus if gpu.instance is not None)
        problems = list[Problem]()
        for gpu in self.gpus:
            problems += gpu.problems
            if gpu.mig_enabled and (whole or not devices[gpu.index]):
                problems.append(_mig_mode(gpu, devices[gpu.index]))
        return tuple(problems)

    def seat(self, name: str | None) -> RunningSeat | None:
        """Return the seat of this name that the node reports, or None."""
        return next((seat for seat in self.seats if seat.name == name), None)


class GpuProfile(Value):
    """A GPU as input of the selection. `reported`: by NVML, so that the driver drives it."""

    name: str = ""
    compute_capability: ComputeCapability
    brand: str = ""
    integrated: bool = False
    reported: bool = False


class NodeProfile(Value):
    """A node as input of the selection: `provision select --nodes` reads exactly this."""

    name: str
    platform: str = "linux/amd64"
    driver: DriverVersion | None = None
    kernel_module: KernelModule | None = None
    toolkit_mode: ToolkitMode | None = None
    gpus: tuple[GpuProfile, ...] = ()


def profile(facts: NodeFacts) -> NodeProfile:
    """Return a node as input of the selection: the GPUs for its seat, in NVML's order."""
    gpus = tuple(
        GpuProfile(name=gpu.name, compute_capability=gpu.compute_capability, brand=gpu.brand, reported=True)
        for gpu in facts.offered_gpus
        if gpu.compute_capability is not None
    )
    return NodeProfile(
        name=facts.name,
        platform=facts.platform,
        driver=facts.driver,
        kernel_module=facts.kernel_module,
        toolkit_mode=facts.toolkit_mode,
        gpus=gpus,
    )
