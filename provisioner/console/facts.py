"""The compatibility data: how old it is, what it holds, and where each block of it is from."""

from collections.abc import Iterator
from datetime import date

from rich.console import Group
from rich.text import Text

from provisioner.console.tables import table
from provisioner.console.text import count, line
from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.rows import Build, Release
from provisioner.domain.values.problem import Problem

OLD_AFTER_DAYS = 120  # torch has a minor release about every two months (RELEASE.md, "Release Cadence")


_HOW_TO_ADD = """\
A lab that knows better writes compatibility.yaml into its directory: the same blocks as in --json, with only the rows
that it adds or replaces. Each row says in `source` (a build: in `evidence`) where it is from. For example:
  products:
    - {name: RTX 5090 SUPER, capability: "12.0", min_driver: "595.45.04", source: "our node g7, 2026-11-20"}
  releases:
    - version: "2.16"
      builds: [{cuda: "13.2", sm: [75, 80, 86, 90, 100, 120], evidence: "measured(2.16.0)"}]
`provision facts LAB` shows what they make of it; the lock then says so in its data_version."""


def facts_view(data: CompatibilityData, today: date) -> Group:
    made = table("torch", "CUDA", "machine code for", "PTX", "evidence")
    for release in reversed(data.releases):
        for build in release.builds:
            made.add_row(*_row(release, build))
    age = Text(f"Compatibility data of {data.version}, {count(age_days(data, today), 'day')} old.\n")
    sources = (Text(text) for text in _sources(data))
    return Group(age, *_own(data), made, Text(), *sources, Text(), Text(_HOW_TO_ADD))


def too_old(data: CompatibilityData, today: date) -> Problem | None:
    age = age_days(data, today)
    if age <= OLD_AFTER_DAYS:
        return None
    return Problem(
        "old_facts",
        f"the compatibility data is {age} days old ({data.version})",
        "newer builds of torch, drivers and cards are unknown to it, and what is unknown is never chosen",
        "upgrade provision: the data comes with it",
    )


def age_days(data: CompatibilityData, today: date) -> int:
    return max((today - date.fromisoformat(data.compiled)).days, 0)


def _own(data: CompatibilityData) -> Iterator[Text]:
    """The rows that the lab laid over the package's."""
    for row in data.own:
        how = "replaced" if row.replaced else "added"
        yield Text(f"{how} by the lab: {row.block.replace('_', ' ')}: {line(row.row)} ({line(row.source)})", "bold")
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
    """`name (rows): source` for each block that names one."""
    for field in type(data).model_fields:
        block = field.removesuffix("_source")
        if block != field:
            rows = count(len(getattr(data, block)), "row")
            yield f"{block.replace('_', ' ')} ({rows}): {getattr(data, field).strip()}"
