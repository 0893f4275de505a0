"""What was measured in an image, compared with what the selection takes it for."""

import re
from collections.abc import Collection, Iterator
from typing import Literal

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.gpu_code import (
    Compiled,
    find_compiled,
    has_machine_code,
    parse_targets,
)
from provisioner.domain.compatibility.overlay import OwnMeasuredImage
from provisioner.domain.compatibility.tags import read_facts
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.measured import Measured
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.reference import Digest
from provisioner.domain.values.version import ComputeCapability, DottedVersion

MEASURED_SCHEMA: Literal["provisioner/measured/1"] = "provisioner/measured/1"
HOW = {
    "torch": "torch itself",
    "library": "the list of targets in its library",
    "code": "the code in its library",
}


class ImageMeasurement(Value):
    """What was measured in one image, and in which respects the data takes it for something else.

    `digest`: None for an image that no registry has. `differences`: None where the data does not know the image.
    """

    image: str
    digest: Digest | None = None
    platform: str = ""
    measured: Measured | None = None
    how: str = ""
    differences: tuple[str, ...] | None = None
    problems: tuple[Problem, ...] = ()


def find_differences(
    image: TaggedImage,
    measured: Measured,
    platform: str,
    cards: Collection[ComputeCapability],
    data: CompatibilityData,
) -> tuple[str, ...]:
    """Return in which respects an image is not what the data takes it for; empty where both agree.

    `cards`: the compute capabilities that the image is chosen for. Targets of other cards, be they more or fewer, are
    no difference. What the data does not know of the image cannot differ.
    """
    facts = read_facts(image, data)
    expected = find_compiled(facts, platform, data)
    return (
        *_version_difference("torch", facts.torch, measured.torch),
        *_version_difference("CUDA", None if facts.cuda is None else str(facts.cuda), str(measured.cuda or "none")),
        *(() if measured.cuda is None else _card_differences(expected, measured, cards, data)),
    )


def compare_with_data(
    image: TaggedImage, measured: Measured, platform: str, data: CompatibilityData
) -> tuple[str, ...] | None:
    """Return in which respects an image is not what the data takes it for, on any card; None if it is not known."""
    facts = read_facts(image, data)
    expected = find_compiled(facts, platform, data)
    if expected is None or facts.cuda is None or facts.problems:
        return None
    known = [capability for row in data.architectures for capability in row.capabilities]
    cards = [card for card in known if has_machine_code(expected, card, facts.cuda, data)]
    return find_differences(image, measured, platform, cards, data)


def to_row(found: ImageMeasurement, day: str) -> OwnMeasuredImage | None:
    """Return the row of a lab for what was measured; None for an image without a digest. `day`: ISO 8601."""
    if found.measured is None or found.digest is None:
        return None
    return OwnMeasuredImage(
        **dict(found.measured),
        image=found.image,
        digest=found.digest,
        platform=found.platform,
        source=f"provision facts measure, {day}: {HOW[found.how]}",
    )


def measured_differs(image: TaggedImage, differences: Collection[str]) -> Problem:
    """Return the problem of an image that is chosen for what it is not."""
    command = f"provision facts measure {image.reference} --lab LAB"
    return Problem(
        "measured_differs",
        f"{image.reference} is not what its tag and the compatibility data say: {'; '.join(differences)}",
        "it was chosen by them, and would fail on these nodes, or be another version than the one that was asked for",
        f"`{command}` records what is in it; then run `provision lock` again",
    )


def _version_difference(name: str, expected: str | None, found: str) -> Iterator[str]:
    """Yield a text where two versions differ in the numbers that both have: 12.8 agrees with 12.8.1."""
    if expected is None:
        return
    pairs = zip(_numbers(expected), _numbers(found), strict=False)
    if not _numbers(found) or any(one != other for one, other in pairs):
        yield f"{name} {expected} is expected, {name} {found} is in it"


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers at the beginning of a version: 2.9.0 of 2.9.0a0+50eac811a6."""
    found = re.match(r"[0-9]{1,9}(\.[0-9]{1,9})*", version)
    return DottedVersion(found[0]).key if found else ()


def _card_differences(
    expected: Compiled | None, measured: Measured, cards: Collection[ComputeCapability], data: CompatibilityData
) -> Iterator[str]:
    """Yield a text for each card whose code is missing."""
    compiled, cuda = parse_targets(measured.targets), measured.cuda
    for card in sorted(set(cards)):
        if cuda is None or has_machine_code(compiled, card, cuda, data):
            continue
        machine_code = expected is not None and has_machine_code(expected, card, cuda, data)
        if machine_code or not data.compiles(compiled.ptx, card):
            yield f"it has no machine code for compute capability {card}, only {compiled}"
