"""The rows of the compatibility data, one class for each kind of fact."""

from typing import Literal

from provisioner.domain.values.model import Value
from provisioner.domain.values.version import ComputeCapability, CudaVersion, DottedVersion, DriverVersion

OpenModule = Literal["never", "supported", "required"]


class Build(Value):
    """One CUDA build of a torch release. Architectures as torch numbers them: 75 is 7.5, 120 is 12.0.

    `aarch64_sm` is empty where nobody knows it. `since`: the first patch release that has the build.
    """

    cuda: CudaVersion
    sm: tuple[int, ...]
    ptx: tuple[int, ...] = ()
    aarch64_sm: tuple[int, ...] = ()
    cudnn: DottedVersion | None = None
    since: DottedVersion | None = None
    evidence: str

    @property
    def confirmed(self) -> bool:
        return self.evidence != "UNCONFIRMED"


class Release(Value):
    """A minor release of torch; `patches` are those published when the data was compiled."""

    version: DottedVersion
    patches: tuple[DottedVersion, ...]
    builds: tuple[Build, ...]


class CodeRules(Value):
    """On which card compiled code runs, by architecture number (`source` in the data)."""

    source: str
    exclude: dict[int, tuple[int, ...]]
    lifted_from: CudaVersion
    lifted: tuple[int, ...]
    exact: dict[int, tuple[int, ...]]


class OldestCode(Value):
    cuda: CudaVersion
    capability: ComputeCapability
    source: str


class DriverFloor(Value):
    cuda: DottedVersion
    driver: DriverVersion


class ToolkitDrivers(Value):
    cuda: CudaVersion
    drivers: tuple[DriverVersion, ...]


class Architecture(Value):
    """`cudnn`: the newest cuDNN confirmed on it, None where there is no bound."""

    name: str
    capabilities: tuple[ComputeCapability, ...]
    min_driver: DriverVersion | None = None
    last_branch: int | None = None
    open_module: OpenModule = "supported"
    cudnn: DottedVersion | None = None


class Product(Value):
    """A card of which more is known than of its architecture."""

    name: str
    capability: ComputeCapability
    min_driver: DriverVersion | None = None
    open_module: OpenModule | None = None


class DevelRequirement(Value):
    """Old branches that the base image of a -devel tag admits beside its own CUDA, for these brands alone."""

    cuda: CudaVersion
    branches: tuple[int, ...]
    brands: tuple[str, ...]


class NgcMonth(Value):
    month: str
    cuda: CudaVersion | None = None
    torch: str | None = None


class NgcCard(Value):
    """A card on which NGC images are known to run although their list of architectures was not read."""

    capability: ComputeCapability
    platform: str
    since: str
    source: str


class OwnRow(Value):
    """A row that a lab laid over the data: which block, which row in words, and where the lab has it from."""

    block: str
    row: str
    source: str
    replaced: bool
