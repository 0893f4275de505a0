"""The typed form of the compatibility data, with lookups: what torch builds contain, what drivers and cards run.

A result of None means that the data does not know; unknown counts as unsafe.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import cached_property
from typing import NamedTuple

from provisioner.domain.compatibility.rows import (
    Architecture,
    Build,
    CodeRules,
    DevelRequirement,
    DriverBranch,
    DriverFloor,
    KnownFault,
    NgcCard,
    NgcMonth,
    OldestCode,
    OwnRow,
    Product,
    Release,
    ToolkitDrivers,
    ToolkitHole,
)
from provisioner.domain.values.measured import MeasuredImage
from provisioner.domain.values.model import Value
from provisioner.domain.values.version import ComputeCapability, CudaVersion, DottedVersion, DriverVersion


class KnownBuild(NamedTuple):
    """A published build of torch with code for a card; `driver`: the oldest on which it runs there."""

    torch: DottedVersion
    cuda: CudaVersion
    driver: DriverVersion

    def __str__(self) -> str:
        """Return torch and CUDA, for a sentence."""
        return f"torch {self.torch} with CUDA {self.cuda}"


class CompatibilityData(Value):
    """The whole data file.

    `version` is the day it was compiled, ISO 8601. Where a lab has overlaid rows, `+` and their short hash follow, and
    `own` lists them.
    """

    version: str
    releases_source: str
    releases: tuple[Release, ...]
    code_rules: CodeRules
    oldest_code: tuple[OldestCode, ...]
    driver_floors_source: str
    driver_floors: tuple[DriverFloor, ...]
    toolkit_drivers_source: str
    toolkit_drivers: tuple[ToolkitDrivers, ...]
    driver_branches_source: str
    driver_branches: tuple[DriverBranch, ...]
    architectures_source: str
    architectures: tuple[Architecture, ...]
    products_source: str
    products: tuple[Product, ...]
    devel_requires_source: str
    devel_requires: tuple[DevelRequirement, ...]
    forward_brands_source: str
    forward_brands: tuple[str, ...]
    ngc_source: str
    ngc: tuple[NgcMonth, ...]
    ngc_runs_on: tuple[NgcCard, ...]
    known_faults_source: str = ""
    known_faults: tuple[KnownFault, ...] = ()
    toolkit_holes_source: str
    toolkit_holes: tuple[ToolkitHole, ...]
    measured: tuple[MeasuredImage, ...] = ()
    own: tuple[OwnRow, ...] = ()

    @property
    def compiled(self) -> str:
        """The day the data was compiled, ISO 8601, without the hash of overlaid rows."""
        return self.version.partition("+")[0]

    @cached_property
    def _builds(self) -> Mapping[tuple[int, int, int, int], Build]:
        return {
            (*release.version.key[:2], *build.cuda.key[:2]): build  # type: ignore[misc]  # both have two parts
            for release in self.releases
            for build in release.builds
        }

    @cached_property
    def _architectures(self) -> Mapping[ComputeCapability, Architecture]:
        return {capability: each for each in self.architectures for capability in each.capabilities}

    @cached_property
    def _products(self) -> Mapping[ComputeCapability, tuple[Product, ...]]:
        capabilities = {row.capability for row in self.products}
        return {each: tuple(row for row in self.products if row.capability == each) for each in capabilities}

    @cached_property
    def _branches(self) -> tuple[int, ...]:
        toolkits = (driver.major for row in self.toolkit_drivers for driver in row.drivers)
        return tuple(sorted({*toolkits, *(row.branch for row in self.driver_branches)}))

    @cached_property
    def _betas(self) -> frozenset[tuple[int, ...]]:
        return frozenset(row.beta.key for row in self.driver_branches if row.beta)

    @cached_property
    def supported_releases(self) -> tuple[DriverVersion, ...]:
        """The newest release of each branch that was supported when the data was compiled, oldest branch first."""
        today = date.fromisoformat(self.compiled)
        return tuple(
            sorted(row.newest for row in self.driver_branches if row.newest and row.until and row.until >= today)
        )

    def build(self, torch: DottedVersion, cuda: CudaVersion) -> Build | None:
        """Return the build of exactly this torch minor and CUDA minor, None if it is unknown or unconfirmed."""
        found = self._builds.get((torch.major, torch.minor, cuda.major, cuda.minor))
        if found is None or not found.confirmed or (found.since is not None and torch < found.since):
            return None
        return found

    def architecture(self, capability: ComputeCapability) -> Architecture | None:
        """Return the architecture with this compute capability, None if it is unknown."""
        return self._architectures.get(capability)

    def products_of(self, capability: ComputeCapability) -> tuple[Product, ...]:
        """Return the products of this compute capability that differ from their architecture."""
        return self._products.get(capability, ())

    def driver_floor(self, cuda: CudaVersion) -> DriverVersion | None:
        """Return the oldest driver that runs this CUDA by minor-version compatibility."""
        prefixes = (cuda.key[:length] for length in range(len(cuda.key), 0, -1))
        return next((self._floors[key] for key in prefixes if key in self._floors), None)

    @cached_property
    def _floors(self) -> Mapping[tuple[int, ...], DriverVersion]:
        return {row.cuda.key: row.driver for row in self.driver_floors}

    def toolkit_driver(self, cuda: CudaVersion) -> DriverVersion | None:
        """Return the first driver of the branch that was released with this CUDA minor version."""
        return next((row.drivers[0] for row in self.toolkit_drivers if row.cuda.key[:2] == cuda.key[:2]), None)

    def cuda_of(self, driver: DriverVersion) -> CudaVersion | None:
        """Return the newest CUDA version that a driver supports: the version of its branch."""
        return next((cuda for branch, cuda in self._cuda_of_branches if branch <= driver.major), None)

    @cached_property
    def _cuda_of_branches(self) -> Sequence[tuple[int, CudaVersion]]:
        rows = sorted(self.toolkit_drivers, key=lambda row: row.cuda, reverse=True)
        return [(row.drivers[0].major, row.cuda) for row in rows]

    def branch_of(self, driver: DriverVersion) -> int:
        """Return the branch of a release. Windows, and so WSL2, counts on up to the next one: 581.57 is of R580."""
        return max((branch for branch in self._branches if branch <= driver.major), default=driver.major)

    def line_of(self, driver: DriverVersion) -> tuple[int, ...]:
        """Return what identifies the line of a release: its branch, or the prefix of the branch's Vulkan betas."""
        prefix = driver.key[:2]
        return prefix if prefix in self._betas else (self.branch_of(driver),)

    def last_driver(self, branch: int) -> DriverVersion | None:
        """Return the newest known release of a branch."""
        return next((row.newest for row in self.driver_branches if row.branch == branch), None)

    def oldest_capability(self, cuda: CudaVersion) -> ComputeCapability | None:
        """Return the oldest architecture that this toolkit can compile for; None if there is no bound."""
        return max((row.capability for row in self.oldest_code if row.cuda <= cuda), default=None)

    def builds_for(self, capability: ComputeCapability, platform: str) -> tuple[KnownBuild, ...]:
        """Return the builds with images that have code for a card, newest first."""
        key = (capability, platform)
        if key not in self._builds_by_card:
            found = (
                KnownBuild(release.version, build.cuda, driver)
                for release in self.releases
                for build in release.builds
                if build.confirmed and build.image and self.cudnn_fits(capability, build.cudnn)
                for driver in [self._first_driver_of(build, capability, platform)]
                if driver is not None
            )
            self._builds_by_card[key] = tuple(sorted(found, key=lambda each: (each.torch, each.cuda), reverse=True))
        return self._builds_by_card[key]

    @cached_property
    def products_by_name(self) -> dict[tuple[str, ComputeCapability], Product | None]:
        """The products that names were found to denote: many sentences about a card look it up again."""
        return {}

    @cached_property
    def _builds_by_card(self) -> dict[tuple[ComputeCapability, str], tuple[KnownBuild, ...]]:
        return {}

    def _first_driver_of(self, build: Build, capability: ComputeCapability, platform: str) -> DriverVersion | None:
        """Return the oldest driver on which a build runs on a card; None: it has no code for it, or it is not known."""
        amd64 = platform == "linux/amd64"
        if self.runs(build.sm if amd64 else build.aarch64_sm, capability, build.cuda):
            return self.driver_floor(build.cuda)
        own = self.toolkit_driver(build.cuda) if amd64 and self.compiles(build.ptx, capability) else None
        return None if own is None else DriverVersion(str(own.major))

    def cudnn_fits(self, capability: ComputeCapability, cudnn: DottedVersion | None) -> bool:
        """Return whether a cuDNN is not newer than the newest that is confirmed on a card; an unknown one is taken."""
        architecture = self.architecture(capability)
        limit = None if architecture is None else architecture.cudnn
        return limit is None or cudnn is None or cudnn.key[: len(limit.key)] <= limit.key

    def ngc_month(self, month: str) -> NgcMonth | None:
        """Return what an NGC image of this month ("25.09") contains, None if it is unknown."""
        return next((row for row in self.ngc if row.month == month), None)

    def measured_image(self, digest: str | None) -> MeasuredImage | None:
        """Return what was measured in the image with this digest, None if it was not measured."""
        return self._measured.get(digest or "")

    @cached_property
    def _measured(self) -> Mapping[str, MeasuredImage]:
        return {row.digest: row for row in self.measured}

    def runs(self, compiled: Iterable[int], capability: ComputeCapability, cuda: CudaVersion) -> bool:
        """Return whether machine code for one of these architectures, compiled by this CUDA, runs on the card."""
        card = capability.major * 10 + capability.minor
        return any(self._runs(sm, card, cuda) for sm in compiled)

    def compiles(self, ptx: Iterable[int], capability: ComputeCapability) -> bool:
        """Return whether a driver of the toolkit's CUDA compiles one of these PTX for the card."""
        card = capability.major * 10 + capability.minor
        return any(each <= card and each not in self.code_rules.unused_ptx for each in ptx)

    def _runs(self, sm: int, card: int, cuda: CudaVersion) -> bool:
        rules = self.code_rules
        if sm in rules.exact:
            return card in rules.exact[sm]
        lifted = cuda >= rules.lifted_from and card in rules.lifted
        excluded = card in rules.exclude.get(sm, ()) and not lifted
        return sm // 10 == card // 10 and sm <= card and not excluded
