"""Whether an image contains code for a card: machine code by the rule that torch itself uses, and PTX."""

import re
from collections.abc import Iterable
from typing import Literal

from provisioner.domain.compatibility.data import CompatibilityData, KnownBuild
from provisioner.domain.compatibility.forward_compatibility import has_forward_compatibility
from provisioner.domain.compatibility.gpu import Card, drives, proposed_driver
from provisioner.domain.compatibility.rows import Build
from provisioner.domain.compatibility.torch_version import how_to_measure, release_of
from provisioner.domain.values.image import ImageFacts
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.version import ComputeCapability, CudaVersion, DottedVersion

_TARGET = re.compile(r"(sm|compute)_(\d{2,3})([af]?)")


class Compiled(Value):
    """The code in an image. `only`: machine code that runs on exactly that card (an "a" target such as sm_90a)."""

    sm: tuple[int, ...]
    only: tuple[int, ...] = ()
    ptx: tuple[int, ...] = ()
    cudnn: DottedVersion | None = None

    def __str__(self) -> str:
        """Return the targets as compilers name them: sm_75 sm_90a PTX 120."""
        machine = [f"sm_{sm}" for sm in self.sm] + [f"sm_{sm}a" for sm in self.only]
        return " ".join([*machine, *(f"PTX {ptx}" for ptx in self.ptx)])


# Whether an image has usable code for a card. "too_old": its CUDA cannot compile for the card; "cudnn": its cuDNN is
# not confirmed there; "newer_ptx": it has only PTX that the driver is too old to compile.
CodeState = Literal["runs", "unknown", "too_old", "missing", "cudnn", "newer_ptx"]


def sm_number(capability: ComputeCapability) -> int:
    """Return the architecture number as torch writes it: 7.5 is 75, 12.0 is 120."""
    return capability.major * 10 + capability.minor


def describe_build(image: ImageFacts) -> str:
    """Return torch and CUDA of an image, for a sentence."""
    return f"torch {image.torch or 'of unknown version'} built with CUDA {image.cuda}"


def find_code(card: Card, image: ImageFacts, data: CompatibilityData) -> CodeState:
    """Return whether the image has usable code for the card. "runs" also where its CUDA is not known at all."""
    if image.cuda is None:
        return "runs"
    oldest = data.oldest_capability(image.cuda)
    if oldest is not None and card.capability < oldest:  # certain, known build or not
        return "too_old"
    compiled = find_compiled(image, card.platform, data)
    if compiled is None:
        return "unknown" if _is_unknown(image, card, compiled, data) else "runs"
    if has_machine_code(compiled, card.capability, image.cuda, data):
        return "runs" if data.cudnn_fits(card.capability, compiled.cudnn) else "cudnn"
    if not data.compiles(compiled.ptx, card.capability):
        return "missing"
    return "runs" if _compiles_ptx(card, image, image.cuda, data) else "newer_ptx"


def kernel_problems(card: Card, image: ImageFacts, data: CompatibilityData) -> tuple[Problem, ...]:
    """Return why the image has no usable code for the card; empty if it has, or if its CUDA is unknown."""
    state = find_code(card, image, data)
    if state == "runs":
        return ()
    compiled = find_compiled(image, card.platform, data)
    if state == "too_old":
        unknown = (_unknown_build(image, card, data),) if _is_unknown(image, card, compiled, data) else ()
        oldest = data.oldest_capability(image.cuda) if image.cuda else None
        why = f"CUDA {image.cuda} cannot compile for cards older than {oldest}"
        return (*unknown, _no_kernel(card, image, data, why))
    if compiled is None:
        return (_unknown_build(image, card, data),)
    if state == "missing":
        return (_no_kernel(card, image, data, _why_missing(card, compiled, data)),)
    return (_unconfirmed_cudnn(card, image, compiled, data) if state == "cudnn" else _newer_ptx(card, image, data),)


def _why_missing(card: Card, compiled: Compiled, data: CompatibilityData) -> str:
    failing = [ptx for ptx in compiled.ptx if ptx in data.code_rules.unused_ptx]
    reported = f" (PTX {failing[0]} does not count: it is reported to hang on newer cards)" if failing else ""
    return f"it contains {compiled}, none of which runs on {card.capability}{reported}"


def describe_image_here(card: Card, data: CompatibilityData) -> str | None:
    """Return the newest image that runs on the card under its driver, as a step for a fix; None if there is none."""
    if card.driver is None or not drives(card, data):
        return None
    builds = data.builds_for(card.capability, card.platform)
    here = next((build for build in builds if build.driver <= card.driver), None)
    return here and f"use {_image_of(here, card)}, the newest known that runs on this card and driver"


def describe_other_image(card: Card, data: CompatibilityData) -> str:
    """Return the newest image that runs on the card, and its driver unless it runs under this one, as a fix."""
    if here := describe_image_here(card, data):
        return here
    for build in data.builds_for(card.capability, card.platform):
        if driver := proposed_driver(card, build.driver, data):
            return f"use {_image_of(build, card)}, and install driver {driver}"
    return "leave this card out: no known image of torch runs on it in this node"


def _image_of(build: KnownBuild, card: Card) -> str:
    return f"an image of {build}" + ("" if card.platform == "linux/amd64" else f" for {card.platform}")


def has_machine_code(
    compiled: Compiled, capability: ComputeCapability, cuda: CudaVersion, data: CompatibilityData
) -> bool:
    """Return whether the machine code of an image runs on a card."""
    return data.runs(compiled.sm, capability, cuda) or sm_number(capability) in compiled.only


def find_compiled(image: ImageFacts, platform: str, data: CompatibilityData) -> Compiled | None:
    """Return the code of an image on a platform, or on its own platform if it is not made for that one.

    None if it is not known.
    """
    if platform not in image.platforms:
        platform = next(iter(image.platforms), platform)
    if image.measured is not None and image.measured.platform == platform:
        return parse_targets(image.measured.targets, _cudnn_of(image, data))
    if image.family == "ngc":
        listed = _ngc_arch_list(image, platform, data)
        return None if listed is None else _parse_arch_list(listed, image.cudnn)
    build = find_wheel_build(image, data)
    sm = () if build is None else build.sm if platform == "linux/amd64" else build.aarch64_sm
    if build is None or not sm:
        return None
    # PTX is known for the amd64 wheels only.
    return Compiled(sm=sm, ptx=build.ptx if platform == "linux/amd64" else (), cudnn=build.cudnn)


def find_wheel_build(image: ImageFacts, data: CompatibilityData) -> Build | None:
    """Return the published build that the image contains; None if it is not a known one."""
    release = release_of(image.torch)
    return None if release is None or image.cuda is None else data.build(release, image.cuda)


def _ngc_arch_list(image: ImageFacts, platform: str, data: CompatibilityData) -> str | None:
    """Return TORCH_CUDA_ARCH_LIST as read from the image, else what the data has for its month; None: not known."""
    if image.compiled_for is not None:
        return " ".join(image.compiled_for)
    month = data.ngc_month(image.month) if image.month else None
    return None if month is None else month.arch_list(platform, integrated=image.integrated)


def _cudnn_of(image: ImageFacts, data: CompatibilityData) -> DottedVersion | None:
    build = find_wheel_build(image, data)
    return image.cudnn if build is None else build.cudnn


def parse_targets(targets: Iterable[str], cudnn: DottedVersion | None = None) -> Compiled:
    """Parse targets as compilers name them: sm_86, sm_90a (exactly that card), compute_120 (PTX)."""
    found = [match.groups() for match in map(_TARGET.fullmatch, targets) if match]
    return Compiled(
        sm=tuple(int(number) for kind, number, suffix in found if kind == "sm" and suffix != "a"),
        only=tuple(int(number) for kind, number, suffix in found if kind == "sm" and suffix == "a"),
        # PTX for one architecture only cannot be compiled for a later one.
        ptx=tuple(int(number) for kind, number, suffix in found if kind == "compute" and suffix != "a"),
        cudnn=cudnn,
    )


def _parse_arch_list(listed: str, cudnn: DottedVersion | None) -> Compiled:
    """Parse TORCH_CUDA_ARCH_LIST, such as "8.0 9.0a 12.0+PTX"."""
    found = re.findall(r"\b(\d{1,9})\.(\d)([af]?)(\+PTX)?", listed)
    numbers = [(int(major) * 10 + int(minor), kind, ptx) for major, minor, kind, ptx in found]
    return Compiled(
        sm=tuple(number for number, kind, _ in numbers if kind != "a"),
        only=tuple(number for number, kind, _ in numbers if kind == "a"),
        ptx=tuple(number for number, kind, ptx in numbers if ptx and kind != "a"),
        cudnn=cudnn,
    )


def _is_unknown(image: ImageFacts, card: Card, compiled: Compiled | None, data: CompatibilityData) -> bool:
    return compiled is None and not image.problems and not _is_known_to_run(image, card, data)


def _unknown_build(image: ImageFacts, card: Card, data: CompatibilityData) -> Problem:
    why, ways = _describe_unknown(image, card, data)
    return Problem(
        "unknown_build",
        f"the cards that {describe_build(image)} supports on {card.platform} are not known",
        f"{why}; an image is only chosen if it is known to contain code for the card",
        ", or ".join(ways),
    )


def _describe_unknown(image: ImageFacts, card: Card, data: CompatibilityData) -> tuple[str, list[str]]:
    """Return why a build is not known, and what can be done about it."""
    measure, other = how_to_measure(image.reference), describe_other_image(card, data)
    if image.family == "ngc":
        why = f"neither its config was read, nor has the data of {data.version} the architectures of this month"
        return why, [f"let `provision mirror check {image.reference}` read its config", measure]
    release = release_of(image.torch)
    if release is None and not image.is_measurable:
        return "it is a nightly or a release candidate, of which each is another build", [other]
    if release is None or image.cuda is None:
        return "it is a private build", [measure, other]
    minors = sorted(row.version for row in data.releases)
    first, last = minors[0], minors[-1]
    if release.key[:2] < first.key[:2]:
        return f"it is older than the data, which begins with torch {first}", [measure, other]
    if release.key[:2] > last.key[:2]:
        return f"it is newer than the data of {data.version}, which ends with torch {last}", [measure, other]
    return f"the data of {data.version} has no such build for {card.platform}", [measure, other]


def _is_known_to_run(image: ImageFacts, card: Card, data: CompatibilityData) -> bool:
    return not image.integrated and any(
        row.capability == card.capability
        and row.platform == card.platform
        and row.since <= (image.month or "") <= (row.until or "99.99")
        for row in data.ngc_runs_on
    )


def _no_kernel(card: Card, image: ImageFacts, data: CompatibilityData, why: str) -> Problem:
    return Problem(
        "no_kernel",
        f"{describe_build(image)} has no code for {card}",
        f'{why}: it would fail with "no kernel image is available for execution on the device"',
        describe_other_image(card, data),
    )


def _unconfirmed_cudnn(card: Card, image: ImageFacts, compiled: Compiled, data: CompatibilityData) -> Problem:
    architecture = data.architecture(card.capability)
    return Problem(
        "unknown_build",
        f"{describe_build(image)} includes cuDNN {compiled.cudnn}, which is not confirmed on {card}",
        f"cuDNN {architecture and architecture.cudnn} is the newest that is confirmed for its architecture;"
        " convolutions may fail",
        describe_other_image(card, data),
    )


def _compiles_ptx(card: Card, image: ImageFacts, cuda: CudaVersion, data: CompatibilityData) -> bool:
    """Return whether the driver compiles PTX of a toolkit; without a driver another problem says so."""
    if card.driver is None or has_forward_compatibility(card, image, data):
        return True
    supported = data.cuda_of(card.driver)
    return supported is not None and supported.key[:2] >= cuda.key[:2]


def _newer_ptx(card: Card, image: ImageFacts, data: CompatibilityData) -> Problem:
    needed = data.toolkit_driver(image.cuda) if image.cuda else None
    driver = None if needed is None else proposed_driver(card, needed, data)
    supported = data.cuda_of(card.driver) if card.driver else None
    return Problem(
        "driver_too_old",
        f"driver {card.driver} is too old to compile the PTX of {describe_build(image)} for {card}",
        (
            f"there is no machine code for this card, and this PTX needs a driver of CUDA {image.cuda} or newer;"
            f" this one supports {supported or 'an unknown version'} (cudaErrorUnsupportedPtxVersion)"
        ),
        f"install driver {driver}" if driver else describe_other_image(card, data),
    )
