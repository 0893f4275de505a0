"""What a lab knows better than the compatibility data: rows of its own, each with its source, laid over it."""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import ConfigDict, Field

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.rows import (
    Architecture,
    Build,
    DevelRequirement,
    DriverFloor,
    NgcCard,
    NgcMonth,
    OwnRow,
    Product,
    Release,
    ToolkitDrivers,
)
from provisioner.domain.values.model import UserInput, Value
from provisioner.domain.values.version import DottedVersion

Row = TypeVar("Row", bound=Value)
Source = Annotated[str, Field(min_length=4)]


class OwnBuild(Build):
    """`evidence` says where it is from, as in the package's own data."""

    model_config = ConfigDict(extra="forbid")
    evidence: Source


class OwnRelease(UserInput):
    version: DottedVersion
    patches: tuple[DottedVersion, ...] = ()
    builds: tuple[OwnBuild, ...]


class OwnDriverFloor(DriverFloor):
    model_config = ConfigDict(extra="forbid")
    source: Source


class OwnToolkitDrivers(ToolkitDrivers):
    model_config = ConfigDict(extra="forbid")
    source: Source


class OwnArchitecture(Architecture):
    model_config = ConfigDict(extra="forbid")
    source: Source


class OwnProduct(Product):
    model_config = ConfigDict(extra="forbid")
    source: Source


class OwnDevelRequirement(DevelRequirement):
    model_config = ConfigDict(extra="forbid")
    source: Source


class OwnNgcMonth(NgcMonth):
    model_config = ConfigDict(extra="forbid")
    source: Source


class OwnNgcCard(NgcCard):
    model_config = ConfigDict(extra="forbid")
    source: Source


class Overlay(UserInput):
    """A lab's compatibility.yaml: blocks of the data's own names, holding only the rows that it adds or replaces."""

    releases: tuple[OwnRelease, ...] = ()
    driver_floors: tuple[OwnDriverFloor, ...] = ()
    toolkit_drivers: tuple[OwnToolkitDrivers, ...] = ()
    architectures: tuple[OwnArchitecture, ...] = ()
    products: tuple[OwnProduct, ...] = ()
    devel_requires: tuple[OwnDevelRequirement, ...] = ()
    ngc: tuple[OwnNgcMonth, ...] = ()
    ngc_runs_on: tuple[OwnNgcCard, ...] = ()


class Block(NamedTuple):
    """`key`: what makes two rows of a block the same one. `words`: how the row is called in a sentence."""

    key: Callable[[Any], Hashable]
    words: Callable[[Any], str]


_BLOCKS = {
    "driver_floors": Block(lambda row: row.cuda, lambda row: f"CUDA {row.cuda}"),
    "toolkit_drivers": Block(lambda row: row.cuda, lambda row: f"CUDA {row.cuda}"),
    "products": Block(lambda row: (row.name.lower(), row.capability), lambda row: row.name),
    "devel_requires": Block(lambda row: row.cuda, lambda row: f"CUDA {row.cuda}"),
    "ngc": Block(lambda row: row.month, lambda row: row.month),
    "ngc_runs_on": Block(
        lambda row: (row.capability, row.platform), lambda row: f"compute capability {row.capability}, {row.platform}"
    ),
}


def overlaid(data: CompatibilityData, overlay: Overlay) -> CompatibilityData:
    """The data with a lab's rows in it. Its version tells which rows: the same rows in another layout are the same."""
    changed: dict[str, Any] = {name: _merged(data, overlay, name) for name in _BLOCKS}
    changed["releases"] = _releases(data.releases, overlay.releases)
    changed["architectures"] = (*_without(data.architectures, overlay.architectures), *overlay.architectures)
    own = tuple(_own(data, overlay))
    if not own:
        return data
    digest = hashlib.sha256(overlay.model_dump_json().encode()).hexdigest()[:8]
    fields = {name: getattr(data, name) for name in type(data).model_fields}
    return CompatibilityData.model_construct(
        **(fields | changed | {"own": own, "version": f"{data.compiled}+{digest}"})
    )


def _merged(data: CompatibilityData, overlay: Overlay, name: str) -> tuple[Any, ...]:
    key, theirs = _BLOCKS[name].key, getattr(overlay, name)
    replaced = {key(row) for row in theirs}
    return (*(row for row in getattr(data, name) if key(row) not in replaced), *theirs)


def _releases(ours: Sequence[Release], theirs: Iterable[OwnRelease]) -> tuple[Release, ...]:
    """By minor version; of a release that is known only the builds of the same CUDA are replaced."""
    merged = {release.version.key[:2]: release for release in ours}
    for own in theirs:
        known = merged.get(own.version.key[:2], Release(version=own.version, patches=(), builds=()))
        cudas = {build.cuda.key[:2] for build in own.builds}
        kept = tuple(build for build in known.builds if build.cuda.key[:2] not in cudas)
        patches = tuple(sorted({*known.patches, *own.patches}))
        merged[own.version.key[:2]] = Release(version=known.version, patches=patches, builds=(*kept, *own.builds))
    return tuple(merged[key] for key in sorted(merged))


def _without(ours: Iterable[Architecture], theirs: Iterable[Architecture]) -> list[Architecture]:
    """The architectures less the compute capabilities that a lab speaks of itself."""
    own = {capability for row in theirs for capability in row.capabilities}
    return [
        row.model_copy(update={"capabilities": tuple(one for one in row.capabilities if one not in own)})
        for row in ours
    ]


def _own(data: CompatibilityData, overlay: Overlay) -> Iterable[OwnRow]:
    for release in overlay.releases:
        known = {
            build.cuda.key[:2]
            for row in data.releases
            if row.version.key[:2] == release.version.key[:2]
            for build in row.builds
        }
        for build in release.builds:
            words = f"torch {release.version} with CUDA {build.cuda}"
            replaced = build.cuda.key[:2] in known
            yield OwnRow(block="releases", row=words, source=build.evidence, replaced=replaced)
    for architecture in overlay.architectures:
        words = f"{architecture.name} ({', '.join(map(str, architecture.capabilities))})"
        replaced = any(map(data.architecture, architecture.capabilities))
        yield OwnRow(block="architectures", row=words, source=architecture.source, replaced=replaced)
    for name, block in _BLOCKS.items():
        known_keys = {block.key(row) for row in getattr(data, name)}
        for row in getattr(overlay, name):
            replaced = block.key(row) in known_keys
            yield OwnRow(block=name, row=block.words(row), source=row.source, replaced=replaced)
