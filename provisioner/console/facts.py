"""The compatibility data: how old it is, what it holds, and where each block of it is from."""

from collections.abc import Iterator
from datetime import date

from rich.console import Group
from rich.text import Text

from provisioner.console.tables import table
from provisioner.console.text import count
from provisioner.domain.compatibility import Build, CompatibilityData, Release
from provisioner.domain.problem import Problem

OLD_AFTER_DAYS = 120  # torch has a minor release about every two months (RELEASE.md, "Release Cadence")


def facts_view(data: CompatibilityData, today: date) -> Group:
    made = table("torch", "CUDA", "machine code for", "PTX", "evidence")
    for release in reversed(data.releases):
        for build in release.builds:
            made.add_row(*_row(release, build))
    age = Text(f"Compatibility data of {data.version}, {count(age_days(data, today), 'day')} old.\n")
    return Group(age, made, Text(), *(Text(text) for text in _sources(data)))


def too_old(data: CompatibilityData, today: date) -> Problem | None:
    age = age_days(data, today)
    if age <= OLD_AFTER_DAYS:
        return None
    return Problem(
        code="old_facts",
        what=f"the compatibility data is {age} days old ({data.version})",
        why="newer builds of torch, drivers and cards are unknown to it, and what is unknown is never chosen",
        fix="upgrade provision: the data comes with it",
    )


def age_days(data: CompatibilityData, today: date) -> int:
    return max((today - date.fromisoformat(data.version)).days, 0)


def _row(release: Release, build: Build) -> tuple[str, str, str, str, str]:
    patches = ", ".join(f".{patch.text.rpartition('.')[2]}" for patch in release.patches)
    since = f" (from {build.since})" if build.since else ""
    return (
        f"{release.version} ({patches})",
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
