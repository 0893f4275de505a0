"""What code an image holds for a card: machine code by the rule that torch itself uses, and PTX."""

import re

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.forward_compatibility import runs_forward
from provisioner.domain.compatibility.gpu import Card
from provisioner.domain.compatibility.rows import Build
from provisioner.domain.compatibility.torch_version import release_of
from provisioner.domain.values.image import ImageFacts
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.version import ComputeCapability, DottedVersion


class Compiled(Value):
    """The code in an image. `only`: machine code that runs on exactly that card (an "a" target such as sm_90a)."""

    sm: tuple[int, ...]
    only: tuple[int, ...] = ()
    ptx: tuple[int, ...] = ()
    cudnn: DottedVersion | None = None

    def __str__(self) -> str:
        machine = [f"sm_{sm}" for sm in self.sm] + [f"sm_{sm}a" for sm in self.only]
        return " ".join([*machine, *(f"PTX {ptx}" for ptx in self.ptx)])


def number(capability: ComputeCapability) -> int:
    return capability.major * 10 + capability.minor


def built(image: ImageFacts) -> str:
    return f"torch {image.torch or 'of unknown version'} built with CUDA {image.cuda}"


def kernel_problems(card: Card, image: ImageFacts, data: CompatibilityData) -> tuple[Problem, ...]:
    if image.cuda is None:
        return ()
    oldest = data.oldest_capability(image.cuda)
    compiled = compiled_in(image, card.platform, data)
    if oldest is not None and card.capability < oldest:  # certain, known build or not
        certain = _no_kernel(card, image, data, f"CUDA {image.cuda} cannot compile for anything older than {oldest}")
        return (*_unknown_build(image, card, compiled, data), certain)
    if compiled is None:
        return _unknown_build(image, card, compiled, data)
    if data.runs(compiled.sm, card.capability, image.cuda) or number(card.capability) in compiled.only:
        return _cudnn_problems(card, image, compiled, data)
    if any(ptx <= number(card.capability) for ptx in compiled.ptx):
        return _jit_problems(card, image, data)
    return (_no_kernel(card, image, data, f"it holds {compiled}, and none of it runs on {card.capability}"),)


def compiled_in(image: ImageFacts, platform: str, data: CompatibilityData) -> Compiled | None:
    """The code of an image on a platform, or, where it is not made for that, on its own; None: unknown."""
    if platform not in image.platforms:
        platform = next(iter(image.platforms), platform)
    if image.family == "ngc":
        return None if image.compiled_for is None else _arch_list(image)
    build = wheel(image, data)
    sm = () if build is None else build.sm if platform == "linux/amd64" else build.aarch64_sm
    if build is None or not sm:
        return None
    # What is known of PTX is known of the amd64 wheels alone.
    return Compiled(sm=sm, ptx=build.ptx if platform == "linux/amd64" else (), cudnn=build.cudnn)


def wheel(image: ImageFacts, data: CompatibilityData) -> Build | None:
    release = release_of(image.torch)
    return None if release is None or image.cuda is None else data.build(release, image.cuda)


def _arch_list(image: ImageFacts) -> Compiled:
    """TORCH_CUDA_ARCH_LIST, such as "8.0 9.0a 12.0+PTX"."""
    found = re.findall(r"\b(\d{1,9})\.(\d)([af]?)(\+PTX)?", " ".join(image.compiled_for or ()))
    numbers = [(int(major) * 10 + int(minor), kind, ptx) for major, minor, kind, ptx in found]
    return Compiled(
        sm=tuple(number for number, kind, _ in numbers if kind != "a"),
        only=tuple(number for number, kind, _ in numbers if kind == "a"),
        ptx=tuple(number for number, kind, ptx in numbers if ptx and kind != "a"),
        cudnn=image.cudnn,
    )


def _unknown_build(
    image: ImageFacts, card: Card, compiled: Compiled | None, data: CompatibilityData
) -> tuple[Problem, ...]:
    if compiled is not None or image.problems or _known_to_run(image, card, data):
        return ()
    ngc = image.family == "ngc"
    where = "its TORCH_CUDA_ARCH_LIST was not read" if ngc else f"the data of {data.version} has no such build"
    return (
        Problem(
            "unknown_build",
            f"which cards {built(image)} has code for on {card.platform} is not known: {where}",
            "an image is only chosen where it is known to hold code for the card",
            (
                "let the mirror check read the image's config"
                if ngc
                else "choose a released torch build, or update provisioner when its compatibility data knows this one"
            ),
        ),
    )


def _known_to_run(image: ImageFacts, card: Card, data: CompatibilityData) -> bool:
    return any(
        row.capability == card.capability and row.platform == card.platform and (image.month or "") >= row.since
        for row in data.ngc_runs_on
    )


def _no_kernel(card: Card, image: ImageFacts, data: CompatibilityData, why: str) -> Problem:
    newest = data.newest_build(card.capability, card.platform)
    return Problem(
        "no_kernel",
        f"{built(image)} has no code for {card}",
        f'{why}: it would end in "no kernel image is available for execution on the device"',
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
            f"{built(image)} brings cuDNN {compiled.cudnn}, which nobody has confirmed on {card}",
            f"cuDNN {limit} is the newest confirmed for its architecture; convolutions may find no code",
            f"use a tag with cuDNN {limit} or older",
        ),
    )


def _jit_problems(card: Card, image: ImageFacts, data: CompatibilityData) -> tuple[Problem, ...]:
    if image.cuda is None or card.driver is None or runs_forward(card, image, data):
        return ()
    spoken = data.cuda_of(card.driver)
    if spoken is not None and spoken.key[:2] >= image.cuda.key[:2]:
        return ()
    needed = data.toolkit_driver(image.cuda)
    return (
        Problem(
            "driver_too_old",
            f"driver {card.driver} is too old to compile the PTX of {built(image)} for {card}",
            (
                f"there is no machine code for this card, and this PTX needs a driver of CUDA {image.cuda} or newer;"
                f" this one speaks {spoken or 'an unknown one'} (cudaErrorUnsupportedPtxVersion)"
            ),
            f"install driver {needed or 'of that CUDA'} or newer, or use a tag with machine code for this card",
        ),
    )
