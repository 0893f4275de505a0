"""Whether an image contains code for a card: machine code by the rule that torch itself uses, and PTX."""

import re
from collections.abc import Iterable

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.forward_compatibility import has_forward_compatibility
from provisioner.domain.compatibility.gpu import Card, proposed_driver
from provisioner.domain.compatibility.rows import Build
from provisioner.domain.compatibility.torch_version import release_of
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


def sm_number(capability: ComputeCapability) -> int:
    """Return the architecture number as torch writes it: 7.5 is 75, 12.0 is 120."""
    return capability.major * 10 + capability.minor


def describe_build(image: ImageFacts) -> str:
    """Return torch and CUDA of an image, for a sentence."""
    return f"torch {image.torch or 'of unknown version'} built with CUDA {image.cuda}"


def kernel_problems(card: Card, image: ImageFacts, data: CompatibilityData) -> tuple[Problem, ...]:
    """Return why the image has no usable code for the card; empty if it has, or if its CUDA is unknown."""
    if image.cuda is None:
        return ()
    oldest = data.oldest_capability(image.cuda)
    compiled = find_compiled(image, card.platform, data)
    if oldest is not None and card.capability < oldest:  # certain, known build or not
        certain = _no_kernel(card, image, data, f"CUDA {image.cuda} cannot compile for cards older than {oldest}")
        return (*_unknown_build(image, card, compiled, data), certain)
    if compiled is None:
        return _unknown_build(image, card, compiled, data)
    if has_machine_code(compiled, card.capability, image.cuda, data):
        return _cudnn_problems(card, image, compiled, data)
    if any(ptx <= sm_number(card.capability) for ptx in compiled.ptx):
        return _jit_problems(card, image, data)
    return (_no_kernel(card, image, data, f"it contains {compiled}, none of which runs on {card.capability}"),)


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


def _unknown_build(
    image: ImageFacts, card: Card, compiled: Compiled | None, data: CompatibilityData
) -> tuple[Problem, ...]:
    if compiled is not None or image.problems or _is_known_to_run(image, card, data):
        return ()
    ngc = image.family == "ngc"
    where = "its TORCH_CUDA_ARCH_LIST was not read" if ngc else f"the data of {data.version} has no such build"
    return (
        Problem(
            "unknown_build",
            f"the cards that {describe_build(image)} supports on {card.platform} are not known: {where}",
            "an image is only chosen if it is known to contain code for the card",
            (
                "let `provision mirror check` read the image's config"
                if ngc
                else "choose a released torch build, or update provisioner once its compatibility data has this one"
            ),
        ),
    )


def _is_known_to_run(image: ImageFacts, card: Card, data: CompatibilityData) -> bool:
    return not image.integrated and any(
        row.capability == card.capability
        and row.platform == card.platform
        and row.since <= (image.month or "") <= (row.until or "99.99")
        for row in data.ngc_runs_on
    )


def _no_kernel(card: Card, image: ImageFacts, data: CompatibilityData, why: str) -> Problem:
    newest = data.newest_build(card.capability, card.platform)
    return Problem(
        "no_kernel",
        f"{describe_build(image)} has no code for {card}",
        f'{why}: it would fail with "no kernel image is available for execution on the device"',
        (
            f"use a tag with code for it; the newest known is {newest}"
            if newest
            else "no published torch build has code for this card: leave it out"
        ),
    )


def _cudnn_problems(card: Card, image: ImageFacts, compiled: Compiled, data: CompatibilityData) -> tuple[Problem, ...]:
    architecture = data.architecture(card.capability)
    limit = None if architecture is None else architecture.cudnn
    if limit is None or compiled.cudnn is None or compiled.cudnn.key[: len(limit.key)] <= limit.key:
        return ()
    return (
        Problem(
            "unknown_build",
            f"{describe_build(image)} includes cuDNN {compiled.cudnn}, which is not confirmed on {card}",
            f"cuDNN {limit} is the newest that is confirmed for its architecture; convolutions may fail",
            f"use a tag with cuDNN {limit} or older",
        ),
    )


def _jit_problems(card: Card, image: ImageFacts, data: CompatibilityData) -> tuple[Problem, ...]:
    if image.cuda is None or card.driver is None or has_forward_compatibility(card, image, data):
        return ()
    supported = data.cuda_of(card.driver)
    if supported is not None and supported.key[:2] >= image.cuda.key[:2]:
        return ()
    own = data.toolkit_driver(image.cuda)
    driver = proposed_driver(card, own, data) if own else None
    return (
        Problem(
            "driver_too_old",
            f"driver {card.driver} is too old to compile the PTX of {describe_build(image)} for {card}",
            (
                f"there is no machine code for this card, and this PTX needs a driver of CUDA {image.cuda} or newer;"
                f" this one supports {supported or 'an unknown version'} (cudaErrorUnsupportedPtxVersion)"
            ),
            (f"install driver {driver}, or " if driver else "") + "use a tag with machine code for this card",
        ),
    )
