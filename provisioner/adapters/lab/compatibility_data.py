"""The compatibility data that comes with the package, and what a lab lays over it."""

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from provisioner.adapters.lab.source_location import Loc, SourceDocument
    from provisioner.domain.compatibility.data import CompatibilityData
    from provisioner.domain.values.problem import Problem

OVERLAY = "compatibility.yaml"

_WORDS = {
    "source": "where you have it from, such as a link, or what you measured",
    "evidence": "where you have it from, such as a link, or measured(2.16.0)",
    "capability": 'a number in quotes, such as "12.0"',
    "capabilities": 'a list of numbers in quotes, such as ["12.0"]',
    "cuda": 'a version in quotes, such as "13.2"',
    "driver": 'a version in quotes, such as "580.65.06"',
    "drivers": 'a list of versions in quotes, such as ["580.65.06"]',
    "min_driver": 'a version in quotes, such as "580.65.06"',
    "version": 'a minor release of torch in quotes, such as "2.16"',
    "sm": "a list of architecture numbers, such as [75, 80, 120]",
}


@cache
def load() -> "CompatibilityData":
    """The package's own data. Read once; every later call gives the same value."""
    import yaml  # noqa: PLC0415  (not for `--help`)

    from provisioner.domain.compatibility.data import CompatibilityData  # noqa: PLC0415

    text = files("provisioner").joinpath("data/compatibility.yaml").read_text(encoding="utf-8")
    return CompatibilityData.model_validate(yaml.load(text, yaml.CSafeLoader))


def load_for(lab: Path) -> "CompatibilityData":
    """The data as a lab has it: with the rows of its directory's compatibility.yaml, where there is one.

    Raises ProblemError with every mistake in that file.
    """
    return load_with(lab / OVERLAY) if (lab / OVERLAY).exists() else load()


def load_with(path: Path) -> "CompatibilityData":
    """The data with the rows of one file laid over it. Raises ProblemError with every mistake in it, and its place."""
    from provisioner.adapters.lab.source_location import read_yaml  # noqa: PLC0415
    from provisioner.adapters.lab.validation import validated  # noqa: PLC0415
    from provisioner.adapters.state.files import read_text  # noqa: PLC0415  (not for `--help`)
    from provisioner.domain.compatibility.overlay import Overlay, overlaid  # noqa: PLC0415

    written = read_yaml(str(path), read_text(path, "name a file that is there; `provision facts` says what it holds"))
    if written.data is None:
        return load()
    return overlaid(load(), validated(written, Overlay, _WORDS, _unquoted(written, written.data, ())))


def _unquoted(written: "SourceDocument", part: Any, loc: "Loc") -> "Iterator[Problem]":
    """Versions that YAML read as numbers: 12.10 would have become 12.1."""
    from provisioner.domain.values.problem import Problem  # noqa: PLC0415

    if isinstance(part, float):
        typed = written.scalar(loc)
        yield Problem(
            "bad_value",
            f'{written.place(loc)}: {typed} is read as a number; write it in quotes: "{typed}"',
            "12.10 would be read as 12.1",
            f'write "{typed}"',
        )
    pairs = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, value in pairs:
        yield from _unquoted(written, value, (*loc, key))
