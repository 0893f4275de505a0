"""The rows of the compatibility data, one class for each kind of fact."""

from datetime import date
from typing import Annotated, Literal

from pydantic import Field

from provisioner.domain.compatibility.torch_version import release_of
from provisioner.domain.values.image import ImageFacts
from provisioner.domain.values.model import Value
from provisioner.domain.values.version import ComputeCapability, CudaVersion, DottedVersion, DriverVersion

OpenModule = Literal["never", "supported", "required"]
ToolkitPackage = Literal["nvidia-container-toolkit", "libnvidia-container"]


class Build(Value):
    """One CUDA build of a torch release. Architectures as torch numbers them: 75 is 7.5, 120 is 12.0.

    `aarch64_sm` is empty if it is not known. `since`: the first patch release that has the build. `image`: whether
    there are images of it; of some builds there are only wheels, so that no tag with them can be proposed.
    """

    cuda: CudaVersion
    sm: tuple[int, ...]
    ptx: tuple[int, ...] = ()
    aarch64_sm: tuple[int, ...] = ()
    cudnn: DottedVersion | None = None
    since: DottedVersion | None = None
    image: Annotated[bool, Field(exclude_if=lambda has: has)] = True  # not in the hash of rows of earlier releases
    evidence: str

    @property
    def confirmed(self) -> bool:
        """Whether there is evidence that the build exists."""
        return self.evidence != "UNCONFIRMED"


class Release(Value):
    """A minor release of torch; `patches` are those published when the data was compiled."""

    version: DottedVersion
    patches: tuple[DottedVersion, ...]
    builds: tuple[Build, ...]


class CodeRules(Value):
    """The cards on which compiled code runs, by architecture number. `source` is the rule's own source.

    `unused_ptx`: PTX that the driver would compile, but that is reported to fail.
    """

    source: str
    exclude: dict[int, tuple[int, ...]]
    lifted_from: CudaVersion
    lifted: tuple[int, ...]
    exact: dict[int, tuple[int, ...]]
    unused_ptx: tuple[int, ...] = ()


class OldestCode(Value):
    """The oldest architecture that toolkits from this CUDA version on can compile for."""

    cuda: CudaVersion
    capability: ComputeCapability
    source: str


class DriverFloor(Value):
    """The oldest driver that runs this CUDA version, or every version with this prefix."""

    cuda: DottedVersion
    driver: DriverVersion


class ToolkitDrivers(Value):
    """The drivers that were released with a CUDA version and its updates, oldest first."""

    cuda: CudaVersion
    drivers: tuple[DriverVersion, ...]


class DriverBranch(Value):
    """A branch of the driver. `newest`: its newest known release, `until`: the last day of its support, where known.

    `beta`: the prefix of its Vulkan betas, a line of releases of its own.
    """

    branch: int
    beta: DriverVersion | None = None
    newest: DriverVersion | None = None
    until: date | None = None


class Architecture(Value):
    """The cards of some compute capabilities. `cudnn`: the newest cuDNN that is confirmed on them, None: no bound."""

    name: str
    capabilities: tuple[ComputeCapability, ...]
    min_driver: DriverVersion | None = None
    last_branch: int | None = None
    open_module: OpenModule = "supported"
    cudnn: DottedVersion | None = None


class Product(Value):
    """A card with drivers or a kernel module that differ from its architecture's.

    `since`: the first release with the card, of each branch and each line of betas in which that is not the first of
    all; branches younger than these have it. `unlisted`: the newest release of a younger branch that is without it.
    """

    name: str
    capability: ComputeCapability
    since: tuple[DriverVersion, ...] = ()
    unlisted: tuple[DriverVersion, ...] = ()
    open_module: OpenModule | None = None


class DevelRequirement(Value):
    """Old driver branches that the base image of a -devel tag admits beside its own CUDA, for these brands only."""

    cuda: CudaVersion
    branches: tuple[int, ...]
    brands: tuple[str, ...]


class NgcMonth(Value):
    """What an NGC image of one month ("25.09") contains, None where it is not known.

    `amd64`, `arm64` and `igpu` (the tag for Jetson boards): its TORCH_CUDA_ARCH_LIST, such as "7.5 8.0 12.0+PTX".
    """

    month: str
    cuda: CudaVersion | None = None
    torch: str | None = None
    amd64: str | None = None
    arm64: str | None = None
    igpu: str | None = None

    def arch_list(self, platform: str, *, integrated: bool) -> str | None:
        """Return the TORCH_CUDA_ARCH_LIST on this platform; `integrated`: of the tag for Jetson boards."""
        return self.igpu if integrated else {"linux/amd64": self.amd64, "linux/arm64": self.arm64}.get(platform)


class NgcCard(Value):
    """A card on which NGC images of the months `since` to `until` are known to run, even if they were not read.

    Both months are included; `until` None: no last month is known.
    """

    capability: ComputeCapability
    platform: str
    since: str
    until: str | None = None
    source: str


class KnownFault(Value):
    """A fault of a torch release that its notes or its maintainers name; an image with it runs, with a caution.

    `torch` and `cuda` may be prefixes: 2.9 means every 2.9.x. `capability` None: on every card.
    """

    torch: DottedVersion
    cuda: CudaVersion | None = None
    capability: ComputeCapability | None = None
    fault: str
    fix: str
    source: str

    def affects(self, image: ImageFacts, capability: ComputeCapability) -> bool:
        """Return whether an image has the fault on a card of this compute capability."""
        torch = release_of(image.torch)
        if torch is None or torch.key[: len(self.torch.key)] != self.torch.key:
            return False
        if self.cuda is not None and (image.cuda is None or image.cuda.key[: len(self.cuda.key)] != self.cuda.key):
            return False
        return self.capability in {None, capability}


class ToolkitHole(Value):
    """Published holes in a package of NVIDIA's container toolkit; `fixed`: its first version without them."""

    package: ToolkitPackage
    fixed: DottedVersion
    cves: tuple[str, ...]


class OwnRow(Value):
    """A row that a lab has added or replaced: its block, the row as text, and the lab's source."""

    block: str
    row: str
    source: str
    replaced: bool
