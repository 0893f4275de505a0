"""The compatibility data: its age, its rows, and the source of each block."""

from collections.abc import Iterator, Sequence
from datetime import date

from rich.console import Group
from rich.text import Text

from provisioner.console.tables import make_table
from provisioner.console.text import count, safe_line
from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.rows import Build, Release
from provisioner.domain.selection.measured import HOW, ImageMeasurement
from provisioner.domain.values.measured import Measured
from provisioner.domain.values.problem import Problem

OLD_AFTER_DAYS = 120  # torch has a minor release about every two months (RELEASE.md, "Release Cadence")


_HOW_TO_ADD = """\
To add or replace rows for one lab, put a file compatibility.yaml into its directory: the same blocks as in --json, with
only those rows. Each row names its source in `source` (a build: in `evidence`). For example:
  products:
    - {name: RTX 5090 SUPER, capability: "12.0", since: ["595.45.04"], source: "our node g7, 2026-11-20"}
  releases:
    - version: "2.16"
      builds: [{cuda: "13.2", sm: [75, 80, 86, 90, 100, 120], evidence: "measured(2.16.0)"}]
`provision facts measure IMAGE --lab LAB` writes such rows itself, of what an image contains. `provision facts show LAB`
shows the result, and data_version of the lock records it."""


def facts_view(data: CompatibilityData, today: date) -> Group:
    """Render the age of the data, the rows that the lab added, the builds of torch, and the source of each block."""
    rows = make_table("torch", "CUDA", "machine code for", "PTX", "evidence")
    for release in reversed(data.releases):
        for build in release.builds:
            rows.add_row(*_row(release, build))
    age = Text(f"Compatibility data of {data.version}, {count(age_days(data, today), 'day')} old.\n")
    sources = (Text(text) for text in _sources(data))
    return Group(age, *_lab_rows(data), rows, Text(), *sources, Text(), Text(_HOW_TO_ADD))


def check_data_age(data: CompatibilityData, today: date) -> Problem | None:
    """Return a problem if the data is older than OLD_AFTER_DAYS days, else None."""
    age = age_days(data, today)
    if age <= OLD_AFTER_DAYS:
        return None
    return Problem(
        "old_facts",
        f"the compatibility data is {age} days old ({data.version})",
        "newer builds of torch, drivers and GPUs are unknown to it, and nothing unknown is chosen",
        "upgrade provision: the data is part of it",
    )


def age_days(data: CompatibilityData, today: date) -> int:
    """Return the age of the data in whole days, at least 0."""
    return max((today - date.fromisoformat(data.compiled)).days, 0)


def measured_view(found: Sequence[ImageMeasurement]) -> Group:
    """Render what was measured in each image, and whether the data says the same."""
    return Group(*(Text(line) for each in found if each.measured for line in _measured_lines(each, each.measured)))


def _measured_lines(found: ImageMeasurement, measured: Measured) -> Iterator[str]:
    yield safe_line(found.image)
    yield f"  torch {measured.torch}, CUDA {measured.cuda or 'none'}, {found.platform}, by {HOW[found.how]}"
    yield f"  {' '.join(measured.targets) or 'no targets'}"
    yield f"  {found.digest or 'no digest'}"
    if found.differences is None:
        yield "  the data does not know this image"
    elif not found.differences:
        yield "  the data says the same"
    yield from (f"  the data differs: {safe_line(text)}" for text in found.differences or ())


def _lab_rows(data: CompatibilityData) -> Iterator[Text]:
    """Yield a line for each row that the lab added or replaced."""
    for row in data.own:
        how = "replaced" if row.replaced else "added"
        yield Text(
            f"{how} by the lab: {row.block.replace('_', ' ')}: {safe_line(row.row)} ({safe_line(row.source)})",
            "bold",
        )
    if data.own:
        yield Text()


def _row(release: Release, build: Build) -> tuple[str, str, str, str, str]:
    patches = ", ".join(f".{patch.text.rpartition('.')[2]}" for patch in release.patches)
    since = f" (from {build.since})" if build.since else ""
    return (
        f"{release.version} ({patches})" if patches else str(release.version),
        f"{build.cuda}{since}",
        _numbers(build.sm),
        _numbers(build.ptx),
        build.evidence,
    )


def _numbers(architectures: tuple[int, ...]) -> str:
    return " ".join(f"{number // 10}.{number % 10}" for number in architectures)


def _sources(data: CompatibilityData) -> Iterator[str]:
    """Yield `name (rows): source` for each block that names a source."""
    for field in type(data).model_fields:
        block = field.removesuffix("_source")
        if block != field:
            rows = count(len(getattr(data, block)), "row")
            yield f"{block.replace('_', ' ')} ({rows}): {getattr(data, field).strip()}"
