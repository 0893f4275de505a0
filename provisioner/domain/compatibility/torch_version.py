"""Versions of torch: published releases, their order, and the range that a lab requests."""

import re
from functools import cache

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from provisioner.domain.values.version import DottedVersion

_NUMBERS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,8}")
_MAX_LENGTH = 200  # characters of a version that is compared; a longer one counts as unreadable


def release_of(torch: str | None) -> DottedVersion | None:
    """Return the version of a published release; None for a nightly, a release candidate or NVIDIA's own build."""
    return DottedVersion(torch) if torch and _NUMBERS.fullmatch(torch) and "." in torch else None


def how_to_measure(reference: str) -> str:
    """Return the step that reads the versions and the architectures of torch out of an image."""
    return f"read it out of the image: `provision facts measure {reference}`"


@cache
def torch_order(torch: str | None) -> Version:
    """Return the key that sorts torch versions; a missing or unreadable version is the oldest."""
    try:
        return Version((torch or "0") if len(torch or "") <= _MAX_LENGTH else "0")
    except ValueError:  # InvalidVersion, or a number with too many digits
        return Version("0")


@cache
def _specifiers(spec: str) -> SpecifierSet:
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", spec):
        return SpecifierSet(f"=={spec}.*")
    return SpecifierSet(spec if re.match(r"[<>=!~]", spec) else f"=={spec}")


def torch_fits(torch: str | None, spec: str) -> bool:
    """Return whether a version meets a request such as 2.8.0, 2.8, 2 or >=2.6,<3."""
    return torch is not None and _specifiers(spec).contains(torch_order(torch), prereleases=True)
