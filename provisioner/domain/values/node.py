"""What a node is: its GPUs, its driver, its engine, and the reason for whatever is absent."""

from typing import Literal

from provisioner.domain.values.claim import Claim
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.reference import Digest
from provisioner.domain.values.version import ComputeCapability, CudaVersion, DriverVersion

KernelModule = Literal["open", "proprietary"]
ToolkitMode = Literal["legacy", "cdi"]


class GpuProcess(Value):
    """A process that NVML reports on a GPU. `pid` is the host's; memory in bytes, None where NVML would not say.

    `container` is the name of the container that it runs in, None outside of any.
    """

    pid: int
    kind: Literal["compute", "graphics"]
    used_memory: int | None = None
    user: str | None = None
    command: str | None = None
    container: str | None = None


class Gpu(Value):
    """One card, or what is left of one: a lost card has problems and no `compute_capability`."""

    index: int
    uuid: str | None = None
    name: str = ""
    brand: str = ""  # lower case, as NVIDIA_REQUIRE_CUDA writes it: geforce, tesla, titan, …
    compute_capability: ComputeCapability | None = None
    memory_total: int | None = None  # bytes
    memory_used: int | None = None  # bytes
    utilization: int | None = None  # per cent of the last second, by whatever process
    pci_bus_id: str | None = None
    mig_enabled: bool | None = None  # None: the card has no MIG
    processes: tuple[GpuProcess, ...] | None = None  # None: NVML would not say, so unknown, so busy
    problems: tuple[Problem, ...] = ()

    @property
    def usable(self) -> bool:
        return self.uuid is not None and self.compute_capability is not None and not self.problems


class EngineFacts(Value):
    """The container engine of a node."""

    version: str
    compose_version: str | None = None
    storage_driver: str = ""
    cgroup_driver: str = ""
    runtimes: tuple[str, ...] = ()
    root_dir: str = ""
    free_bytes: int | None = None  # at the image store


class RunningSeat(Value):
    """A seat as the node itself records and runs it; the truth that a plan is held against."""

    name: str
    generation: int
    image: str  # reference by digest
    files: dict[str, str] = {}  # rendered files in force: path within the seat -> text
    ports: dict[str, int] = {}  # service -> published port
    gpus: tuple[str, ...] = ()  # UUIDs reserved
    host_key: str = ""  # public half, "ssh-ed25519 AAAA…"
    services: dict[str, str] = {}  # service -> running | healthy | unhealthy | exited | missing
    state: str = "committed"  # of its last transaction
    layer_bytes: int | None = None  # written into its containers' own layers; None: the engine would not say
    at_work: tuple[str, ...] = ()  # who uses its GPUs while it runs, and why that is not known; it is asked again
    drift: tuple[Problem, ...] = ()  # where what runs is not what was committed, as the node itself sees it
    run: str = ""  # that was the last to change it, or to try
    previous: int = 0  # the generation that a rollback would go to; 0: there is none, or its image is gone


class NodeFacts(Value):
    """Everything the probe brought from one node.

    `absent_because` gives, for each fact that is missing, the reason ("driver": "driver not loaded", …); a missing
    fact without a reason is a bug.
    """

    name: str
    hostname: str = ""
    platform: str = "linux/amd64"
    addresses: tuple[str, ...] = ()
    driver: DriverVersion | None = None
    cuda_driver: CudaVersion | None = None
    kernel_module: KernelModule | None = None
    toolkit_mode: ToolkitMode | None = None
    cdi_devices: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    pci_gpus: int | None = None  # NVIDIA display devices on the PCI bus
    engine: EngineFacts | None = None
    clock_offset: float | None = None  # seconds, node minus control machine
    seats: tuple[RunningSeat, ...] = ()
    claim: Claim | None = None  # of the run that is changing the node now
    fence: int = 0  # the highest that any claim has had
    last: Claim | None = None  # of the run that was the last to let the node go
    images: tuple[Digest, ...] = ()  # digests the engine already has
    kept: tuple[str, ...] = ()  # references of every generation that a seat here has, runs or could go back to
    absent_because: dict[str, str] = {}
    problems: tuple[Problem, ...] = ()


class GpuProfile(Value):
    """A GPU as the selection sees it. `reported`: NVML named it under this driver, so the driver knows the product."""

    name: str = ""
    compute_capability: ComputeCapability
    brand: str = ""
    integrated: bool = False
    reported: bool = False


class NodeProfile(Value):
    """A node as the selection sees it: `provision select --nodes` reads exactly this."""

    name: str
    platform: str = "linux/amd64"
    driver: DriverVersion | None = None
    kernel_module: KernelModule | None = None
    toolkit_mode: ToolkitMode | None = None
    gpus: tuple[GpuProfile, ...] = ()


def profile(facts: NodeFacts) -> NodeProfile:
    """What the selection may know of a node: its usable GPUs, in NVML's order."""
    gpus = tuple(
        GpuProfile(name=gpu.name, compute_capability=gpu.compute_capability, brand=gpu.brand, reported=bool(gpu.name))
        for gpu in facts.gpus
        if gpu.usable and gpu.compute_capability is not None
    )
    return NodeProfile(
        name=facts.name,
        platform=facts.platform,
        driver=facts.driver,
        kernel_module=facts.kernel_module,
        toolkit_mode=facts.toolkit_mode,
        gpus=gpus,
    )
