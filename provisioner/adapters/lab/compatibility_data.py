"""Load the compatibility data of the package, and the rows that a lab adds to it or replaces."""

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

_EXPECTED = {
    "source": "the source of this row, such as a link, or what you measured",
    "evidence": "the source of this row, such as a link, or measured(2.16.0)",
    "capability": 'a number in quotes, such as "12.0"',
    "capabilities": 'a list of numbers in quotes, such as ["12.0"]',
    "cuda": 'a version in quotes, such as "13.2"',
    "driver": 'a version in quotes, such as "580.65.06"',
    "drivers": 'a list of versions in quotes, such as ["580.65.06"]',
    "min_driver": 'a version in quotes, such as "580.65.06"',
    "since": 'a list of versions in quotes, such as ["570.169", "575.57.08"]',
    "newest": 'a version in quotes, such as "580.178.04"',
    "until": 'a day in quotes, such as "2028-06-30"',
    "version": 'a minor release of torch in quotes, such as "2.16"',
    "sm": "a list of architecture numbers, such as [75, 80, 120]",
}


@cache
def load() -> "CompatibilityData":
    """Return the data of the package. It is read once; later calls return the same value."""
    import yaml  # noqa: PLC0415  (not for `--help`)

    from provisioner.domain.compatibility.data import CompatibilityData  # noqa: PLC0415

    text = files("provisioner").joinpath("data/compatibility.yaml").read_text(encoding="utf-8")
    return CompatibilityData.model_validate(yaml.load(text, yaml.CSafeLoader))


def load_for_lab(lab: Path) -> "CompatibilityData":
    """Return the data of the package with the rows of the lab's compatibility.yaml, if the lab has one.

    Raises ProblemError (usage) with every mistake in that file.
    """
    return load_with_overlay(lab / OVERLAY) if (lab / OVERLAY).exists() else load()


def load_with_overlay(path: Path) -> "CompatibilityData":
    """Return the data of the package with the rows of one file.

    Raises ProblemError (usage) with every mistake in the file and its place.
    """
    from provisioner.adapters.lab.source_location import read_yaml  # noqa: PLC0415
    from provisioner.adapters.lab.validation import validate_document  # noqa: PLC0415
    from provisioner.adapters.state.files import read_text  # noqa: PLC0415  (not for `--help`)
    from provisioner.domain.compatibility.overlay import Overlay, apply_overlay  # noqa: PLC0415

    document = read_yaml(str(path), read_text(path, "name an existing file; `provision facts` shows the data"))
    if document.data is None:
        return load()
    return apply_overlay(
        load(), validate_document(document, Overlay, _EXPECTED, _unquoted(document, document.data, (), set()))
    )


def _unquoted(document: "SourceDocument", part: Any, loc: "Loc", seen: set[int]) -> "Iterator[Problem]":
    """Yield a problem for each version that YAML read as a number: 12.10 would become 12.1.

    `seen`: the ids of collections that were visited; aliases of YAML can lead to one of them in very many ways.
    """
    from provisioner.domain.values.problem import Problem  # noqa: PLC0415

    if isinstance(part, dict | list):
        if id(part) in seen:
            return
        seen.add(id(part))
    if isinstance(part, float):
        typed = document.scalar(loc)
        yield Problem(
            "bad_value",
            f'{document.place(loc)}: {typed} is read as a number; write it in quotes: "{typed}"',
            "12.10 would be read as 12.1",
            f'write "{typed}"',
        )
    pairs = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, value in pairs:
        yield from _unquoted(document, value, (*loc, key), seen)
