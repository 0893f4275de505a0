"""Versions of torch: published releases, their order, and a lab's wish for some of them."""

import re
from functools import cache

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from provisioner.domain.values.version import DottedVersion

_NUMBERS = re.compile(r"\d{1,9}(\.\d{1,9})*")


def release_of(torch: str | None) -> DottedVersion | None:
    """The version of a published release; None for a nightly, a candidate or NVIDIA's own build."""
    return DottedVersion(torch) if torch and _NUMBERS.fullmatch(torch) and "." in torch else None


@cache
def torch_order(torch: str | None) -> Version:
    """By which the newest torch is found; what cannot be read is the oldest."""
    try:
        return Version(torch or "0")
    except ValueError:  # InvalidVersion is one, and so is a number without end
        return Version("0")


@cache
def _wanted(spec: str) -> SpecifierSet:
    if re.fullmatch(r"\d+\.\d+", spec):
        return SpecifierSet(f"=={spec}.*")
    return SpecifierSet(spec if re.match(r"[<>=!~]", spec) else f"=={spec}")


def torch_fits(torch: str | None, spec: str) -> bool:
    """Whether a version meets a wish such as 2.8.0, 2.8 or >=2.6,<3."""
    return torch is not None and _wanted(spec).contains(torch_order(torch), prereleases=True)
