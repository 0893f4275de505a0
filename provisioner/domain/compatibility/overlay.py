"""A lab's own rows of compatibility data, each with its source, merged into the data of the package."""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import ConfigDict, Field

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.rows import (
    Architecture,
    Build,
    DevelRequirement,
    DriverBranch,
    DriverFloor,
    NgcCard,
    NgcMonth,
    OwnRow,
    Product,
    Release,
    ToolkitDrivers,
)
from provisioner.domain.values.measured import MeasuredImage
from provisioner.domain.values.model import UserInput, Value
from provisioner.domain.values.version import DottedVersion, DriverVersion

Row = TypeVar("Row", bound=Value)
Source = Annotated[str, Field(min_length=4)]


class OwnBuild(Build):
    """A build that a lab adds or replaces; `evidence` is its source, as in the package's own data."""

    model_config = ConfigDict(extra="forbid")
    evidence: Source


class OwnRelease(UserInput):
    """Builds of one minor release of torch that a lab adds or replaces."""

    version: DottedVersion
    patches: tuple[DottedVersion, ...] = ()
    builds: tuple[OwnBuild, ...]


class OwnDriverFloor(DriverFloor):
    """The oldest driver for a CUDA version, by a lab."""

    model_config = ConfigDict(extra="forbid")
    source: Source


class OwnToolkitDrivers(ToolkitDrivers):
    """The drivers released with a CUDA version, by a lab."""

    model_config = ConfigDict(extra="forbid")
    source: Source


class OwnDriverBranch(DriverBranch):
    """A branch of the driver, by a lab."""

    model_config = ConfigDict(extra="forbid")
    source: Source


class OwnArchitecture(Architecture):
    """An architecture, by a lab, for the compute capabilities that it names."""

    model_config = ConfigDict(extra="forbid")
    source: Source


class OwnProduct(Product):
    """A card that differs from its architecture, by a lab.

    `min_driver`: one more release from which on the card is driven, as files of earlier releases of provision have it.
    """

    model_config = ConfigDict(extra="forbid")
    min_driver: DriverVersion | None = None
    source: Source

    def plain(self) -> Product:
        """Return the row as the data has it."""
        first = () if self.min_driver is None else (self.min_driver,)
        return Product(**{**dict(self), "since": (*self.since, *first)})


class OwnDevelRequirement(DevelRequirement):
    """The old driver branches that a -devel image admits, by a lab."""

    model_config = ConfigDict(extra="forbid")
    source: Source


class OwnNgcMonth(NgcMonth):
    """The contents of an NGC image of one month, by a lab."""

    model_config = ConfigDict(extra="forbid")
    source: Source


class OwnNgcCard(NgcCard):
    """A card on which NGC images run, by a lab."""

    model_config = ConfigDict(extra="forbid")
    source: Source


class OwnMeasuredImage(MeasuredImage):
    """What a lab measured in an image."""

    model_config = ConfigDict(extra="forbid")
    source: Source


class Overlay(UserInput):
    """A lab's compatibility.yaml: the same block names as the data, with only the rows that it adds or replaces."""

    releases: tuple[OwnRelease, ...] = ()
    driver_floors: tuple[OwnDriverFloor, ...] = ()
    toolkit_drivers: tuple[OwnToolkitDrivers, ...] = ()
    driver_branches: tuple[OwnDriverBranch, ...] = ()
    architectures: tuple[OwnArchitecture, ...] = ()
    products: tuple[OwnProduct, ...] = ()
    devel_requires: tuple[OwnDevelRequirement, ...] = ()
    ngc: tuple[OwnNgcMonth, ...] = ()
    ngc_runs_on: tuple[OwnNgcCard, ...] = ()
    measured: tuple[OwnMeasuredImage, ...] = ()


class Block(NamedTuple):
    """How rows of a block are compared and described: rows with equal `key` are the same; `describe` returns text."""

    key: Callable[[Any], Hashable]
    describe: Callable[[Any], str]


_BLOCKS = {
    "driver_floors": Block(lambda row: row.cuda, lambda row: f"CUDA {row.cuda}"),
    "toolkit_drivers": Block(lambda row: row.cuda, lambda row: f"CUDA {row.cuda}"),
    "driver_branches": Block(lambda row: row.branch, lambda row: f"R{row.branch}"),
    "products": Block(lambda row: (row.name.lower(), row.capability), lambda row: row.name),
    "devel_requires": Block(lambda row: row.cuda, lambda row: f"CUDA {row.cuda}"),
    "ngc": Block(lambda row: row.month, lambda row: row.month),
    "ngc_runs_on": Block(
        lambda row: (row.capability, row.platform), lambda row: f"compute capability {row.capability}, {row.platform}"
    ),
    "measured": Block(lambda row: row.digest, lambda row: f"{row.image}: {row}"),
}


def apply_overlay(data: CompatibilityData, overlay: Overlay) -> CompatibilityData:
    """Return the data with a lab's rows merged into it; the same object if the overlay is empty.

    The hash in its version depends on the rows only, not on their layout in the file.
    """
    changed: dict[str, Any] = {name: _merge_block(data, overlay, name) for name in _BLOCKS}
    changed["products"] = tuple(row.plain() if isinstance(row, OwnProduct) else row for row in changed["products"])
    changed["releases"] = _merge_releases(data.releases, overlay.releases)
    changed["architectures"] = (
        *_without_capabilities(data.architectures, overlay.architectures),
        *overlay.architectures,
    )
    own = tuple(_own_rows(data, overlay))
    if not own:
        return data
    # Without the block that came later: the rows of a lab that does not use it keep the hash of earlier releases.
    later = {block for block in ("measured", "driver_branches") if not getattr(overlay, block)}
    digest = hashlib.sha256(overlay.model_dump_json(exclude=later).encode()).hexdigest()[:8]
    fields = {name: getattr(data, name) for name in type(data).model_fields}
    return CompatibilityData.model_construct(
        **(fields | changed | {"own": own, "version": f"{data.compiled}+{digest}"})
    )


def _merge_block(data: CompatibilityData, overlay: Overlay, name: str) -> tuple[Any, ...]:
    key, added = _BLOCKS[name].key, getattr(overlay, name)
    replaced = {key(row) for row in added}
    return (*(row for row in getattr(data, name) if key(row) not in replaced), *added)


def _merge_releases(known_releases: Sequence[Release], own_releases: Iterable[OwnRelease]) -> tuple[Release, ...]:
    """Merge by minor version; of a known release only the builds with the same CUDA are replaced."""
    merged = {release.version.key[:2]: release for release in known_releases}
    for own in own_releases:
        known = merged.get(own.version.key[:2], Release(version=own.version, patches=(), builds=()))
        cudas = {build.cuda.key[:2] for build in own.builds}
        kept = tuple(build for build in known.builds if build.cuda.key[:2] not in cudas)
        patches = tuple(sorted({*known.patches, *own.patches}))
        merged[own.version.key[:2]] = Release(version=known.version, patches=patches, builds=(*kept, *own.builds))
    return tuple(merged[key] for key in sorted(merged))


def _without_capabilities(known: Iterable[Architecture], own_rows: Iterable[Architecture]) -> list[Architecture]:
    """Return the known architectures without the compute capabilities that the lab's own rows name."""
    own = {capability for row in own_rows for capability in row.capabilities}
    return [
        row.model_copy(update={"capabilities": tuple(one for one in row.capabilities if one not in own)})
        for row in known
    ]


def _own_rows(data: CompatibilityData, overlay: Overlay) -> Iterable[OwnRow]:
    for release in overlay.releases:
        known = {
            build.cuda.key[:2]
            for row in data.releases
            if row.version.key[:2] == release.version.key[:2]
            for build in row.builds
        }
        for build in release.builds:
            text = f"torch {release.version} with CUDA {build.cuda}"
            replaced = build.cuda.key[:2] in known
            yield OwnRow(block="releases", row=text, source=build.evidence, replaced=replaced)
    for architecture in overlay.architectures:
        text = f"{architecture.name} ({', '.join(map(str, architecture.capabilities))})"
        replaced = any(map(data.architecture, architecture.capabilities))
        yield OwnRow(block="architectures", row=text, source=architecture.source, replaced=replaced)
    for name, block in _BLOCKS.items():
        known_keys = {block.key(row) for row in getattr(data, name)}
        for row in getattr(overlay, name):
            replaced = block.key(row) in known_keys
            yield OwnRow(block=name, row=block.describe(row), source=row.source, replaced=replaced)
