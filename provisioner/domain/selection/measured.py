"""What was measured in an image, compared with what the selection takes it for."""

import re
from collections.abc import Collection, Iterator

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.gpu_code import (
    Compiled,
    find_compiled,
    has_machine_code,
    parse_targets,
    sm_number,
)
from provisioner.domain.compatibility.tags import read_facts
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.measured import Measured
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.version import ComputeCapability, DottedVersion


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
        if machine_code or not any(ptx <= sm_number(card) for ptx in compiled.ptx):
            yield f"it has no machine code for compute capability {card}, only {compiled}"
