"""What an image demands of driver and card before it starts: the expressions of NVIDIA_REQUIRE_*.

Grammar and order of evaluation are those of libnvidia-container's src/dsl.c: a space is "or", a comma is "and", read
from the left; the first alternative that holds decides, and a word that cannot be read before it fails the whole.
Which variables count is decided as in nvidia-container-toolkit's internal/config/image.
"""

import re
from collections.abc import Callable, Mapping
from itertools import zip_longest

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.gpu import Card
from provisioner.domain.values.version import CudaVersion

_CONDITION = re.compile(r"([^<>=!]+)(!=|<=|>=|=|<|>)([^<>=!]+)")
_NUMBERS = re.compile(r"[0-9.]{1,99}")
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})  # Go's strconv.ParseBool

_COMPARE: Mapping[str, Callable[[int], bool]] = {
    "=": lambda order: order == 0,
    "!=": lambda order: order != 0,
    "<": lambda order: order < 0,
    "<=": lambda order: order <= 0,
    ">": lambda order: order > 0,
    ">=": lambda order: order >= 0,
}


def requirements(env: Mapping[str, str]) -> tuple[str, ...]:
    """The expressions that must all hold for an image with this environment, in the order of their variables."""
    if env.get("NVIDIA_DISABLE_REQUIRE") in _TRUE:
        return ()
    found = [
        env[name]
        for name in sorted(env)
        if name.startswith("NVIDIA_REQUIRE_") and not name.startswith("NVIDIA_REQUIRE_JETPACK")
    ]
    cuda = re.match(r"v?(\d+\.\d+)", env.get("CUDA_VERSION", ""))
    if cuda and not env.get("NVIDIA_REQUIRE_CUDA"):  # an image older than NVIDIA_REQUIRE_CUDA
        found.append(f"cuda>={cuda[1]}")
    return tuple(found)


def devel_requirement(cuda: CudaVersion, data: CompatibilityData) -> str:
    """NVIDIA_REQUIRE_CUDA of an official -devel image with this CUDA, whose environment nobody has read.

    Where the data does not know the old branches that it admits, it admits none.
    """
    minor = f"{cuda.major}.{cuda.minor}"
    admitted = [
        f"brand={brand},driver>={branch},driver<{branch + 1}"
        for row in data.devel_requires
        if row.cuda.key == cuda.key[:2]
        for branch in row.branches
        for brand in row.brands
    ]
    return " ".join([f"cuda>={minor}", *admitted])


def satisfied(expression: str, card: Card, data: CompatibilityData) -> bool:
    """Whether the container runtime would start the image on this card."""
    alternatives = expression.split()
    if not alternatives:
        return True
    properties = _properties(card, data)
    for alternative in alternatives:
        holds = _holds(alternative, properties)
        if holds is not False:
            return bool(holds)
    return False


def admitted_by_brand(expression: str, card: Card, data: CompatibilityData) -> bool:
    """Whether one of the alternatives that name a brand holds: an older branch that the image admits by exception."""
    properties = _properties(card, data)
    return any("brand=" in text and _holds(text, properties) for text in expression.split())


def _properties(card: Card, data: CompatibilityData) -> Mapping[str, str]:
    cuda = data.cuda_of(card.driver) if card.driver else None
    return {
        "cuda": str(cuda or ""),
        "driver": str(card.driver or ""),
        "arch": str(card.capability),
        "brand": card.brand,
    }


def _holds(alternative: str, properties: Mapping[str, str]) -> bool | None:
    """None: a condition cannot be read, which ends the evaluation."""
    for condition in alternative.split(","):
        holds = _condition(condition, properties) if condition else True
        if not holds:
            return holds
    return True


def _condition(text: str, properties: Mapping[str, str]) -> bool | None:
    match = _CONDITION.fullmatch(text)
    if match is None or match[1] not in properties:
        return None
    ours = properties[match[1]]
    if match[1] == "brand":
        if match[2] not in {"=", "!="}:
            return None
        return bool(ours) and _COMPARE[match[2]](0 if ours == match[3].lower() else 1)
    if not _NUMBERS.fullmatch(match[3]):
        return None
    return bool(ours) and _COMPARE[match[2]](_order(ours, match[3]))


def _order(ours: str, theirs: str) -> int:
    """Less than, equal to or greater than zero; trailing zeros count for nothing: 12.0 is 12."""
    pairs = zip_longest(_integers(ours), _integers(theirs), fillvalue=0)
    return next((a - b for a, b in pairs if a != b), 0)


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(".") if part]
