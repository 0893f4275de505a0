"""Whether one image runs on one card or node, with every reason against it."""

import re
from collections.abc import Iterable, Iterator

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.forward_compatibility import (
    devel_image_would_run,
    has_forward_compatibility,
    replaces_libcuda,
)
from provisioner.domain.compatibility.gpu import Card, build_cards, driver_problems, drives, proposed_driver
from provisioner.domain.compatibility.gpu_code import (
    describe_image_here,
    describe_other_image,
    find_code,
    kernel_problems,
    sm_number,
)
from provisioner.domain.compatibility.requirement import is_satisfied
from provisioner.domain.compatibility.rows import KnownFault
from provisioner.domain.values.image import ImageFacts, base_platform
from provisioner.domain.values.model import Value
from provisioner.domain.values.node import NodeProfile
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.sync import SyncState
from provisioner.domain.values.version import DriverVersion


class Verdict(Value):
    """Every reason why an image does not run, empty if it runs; and what is known to go wrong with one that runs."""

    problems: tuple[Problem, ...] = ()
    cautions: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the image runs."""
        return not self.problems


def judge(node: NodeProfile, image: ImageFacts, data: CompatibilityData) -> Verdict:
    """Judge one image on all GPUs of one node, including its state on the mirror."""
    found = [*image_problems(node.platform, image)]
    if not node.gpus:
        found.append(no_gpu_problem())
    cards = build_cards(node, data)
    for card in cards:
        found += (*driver_problems(card, data), *card_image_problems(card, image, data))
    cautions = () if found else caution_problems(cards, image, data, several=len(cards) > 1)
    return Verdict(problems=tuple(dict.fromkeys((*found, *sync_problems(image)))), cautions=cautions)


def no_gpu_problem() -> Problem:
    """Return the problem of a node without a usable GPU."""
    return Problem(
        "gpu_not_visible",
        "no usable NVIDIA GPU was found on this node",
        "every image here is built for NVIDIA GPUs; on a node without one torch would silently use the CPU",
        "see `nvidia-smi` and `lspci -d 10de:` on the node, then `provision probe` again",
    )


def image_problems(platform: str, image: ImageFacts) -> tuple[Problem, ...]:
    """Return what is wrong with an image for every card of a platform."""
    return (*_platform_problems(platform, image), *image.problems)


def card_image_problems(card: Card, image: ImageFacts, data: CompatibilityData) -> tuple[Problem, ...]:
    """Return why a card does not run an image, apart from the problems of either alone.

    Their text names the build, not the reference, so that equal builds share them.
    """
    return (
        *_integrated_problems(card, image, data),
        *kernel_problems(card, image, data),
        *_toolkit_problems(card, image, data),
        *_require_problems(card, image, data),
    )


def _platform_problems(platform: str, image: ImageFacts) -> tuple[Problem, ...]:
    if base_platform(platform) in image.platforms:
        return ()
    if not image.platforms:
        return () if base_platform(platform) == _USUAL_PLATFORM else (_unread_platform(platform, image),)
    return (
        Problem(
            "wrong_platform",
            f"{image.reference} is built for {', '.join(image.platforms)}, the node is {platform}",
            "machine code for another processor does not run on it",
            (
                f"use an image for {platform}"
                + (": nvcr.io/nvidia/pytorch has some, with -igpu for Jetson boards" if "arm64" in platform else "")
            ),
        ),
    )


_USUAL_PLATFORM = "linux/amd64"  # of images with CUDA: one whose manifest was not read runs there, with a caution
_VIRTUAL_BRANDS = frozenset({"vws", "vcs", "vpc", "vapps", "grid", "cloudgaming"})
_VIRTUAL = re.compile(r"-\d+[qcba]$|^(nvidia )?grid\b", re.IGNORECASE)  # "NVIDIA A40-8C", "GRID V100D-32Q"


def caution_problems(
    cards: Iterable[Card], image: ImageFacts, data: CompatibilityData, *, several: bool
) -> tuple[Problem, ...]:
    """Return what is known to go wrong with an image that runs on these cards of a node.

    `several`: whether they are more than one, equal ones counted.
    """
    found = [] if image.platforms else [_assumed_platform(image)]
    for card in cards:
        if several and has_newer_cuda(card.driver, image, data):
            found.append(_newer_cuda(card, image, data))
        if is_virtual(card):
            found.append(_virtual_gpu(card))
        found += (_known_fault(row, image, card) for row in data.known_faults if row.affects(image, card.capability))
    return tuple(dict.fromkeys(found))


def _assumed_platform(image: ImageFacts) -> Problem:
    return Problem(
        "unread_platform",
        f"it is not known for which platform {image.reference} is built; {_USUAL_PLATFORM} is assumed",
        "its manifest was not read",
        f"let `provision mirror check {image.reference}` read it",
    )


def has_newer_cuda(driver: DriverVersion | None, image: ImageFacts, data: CompatibilityData) -> bool:
    """Return whether an image has a newer CUDA than the driver that it uses; its own libcuda is as new as it is."""
    own = data.cuda_of(driver) if driver else None
    newer = own is not None and image.cuda is not None and image.cuda.key[:2] > own.key
    return newer and not replaces_libcuda(driver, image, data)


def _newer_cuda(card: Card, image: ImageFacts, data: CompatibilityData) -> Problem:
    own = data.toolkit_driver(image.cuda) if image.cuda else None
    driver = None if own is None else proposed_driver(card, own, data)
    return Problem(
        "newer_cuda",
        f"CUDA {image.cuda} is newer than that of driver {card.driver}, and the node has several cards",
        "one card runs it (minor-version compatibility); between cards NCCL was reported to fail where the driver's own"
        " CUDA ran",
        "try an all-reduce over all cards before people use it" + (f", or install driver {driver}" if driver else ""),
    )


def is_virtual(card: Card) -> bool:
    """Return whether a card is a virtual GPU of a hypervisor."""
    return card.brand in _VIRTUAL_BRANDS or _VIRTUAL.search(card.name.strip()) is not None


def _virtual_gpu(card: Card) -> Problem:
    return Problem(
        "virtual_gpu",
        f"{card} is a virtual GPU of a hypervisor",
        "its driver must fit that of the host and have a licence, and not every profile has CUDA (NVIDIA vGPU guide)",
        "see the licence with `nvidia-smi -q` on the node, and try a small program before people use it",
    )


def _known_fault(row: KnownFault, image: ImageFacts, card: Card) -> Problem:
    return Problem("known_fault", f"torch {image.torch} on {card}: {row.fault}", f"known from {row.source}", row.fix)


def runs_on(card: Card, image: ImageFacts, data: CompatibilityData) -> bool:
    """Return whether `card_image_problems` is empty, without building the sentences."""
    return (
        not _is_for_others(card, image, data)
        and find_code(card, image, data) == "runs"
        and _has_driver(card, image, data)
        and (not card.require_checked or card.driver is None or _is_admitted(card, image, data))
    )


def _is_admitted(card: Card, image: ImageFacts, data: CompatibilityData) -> bool:
    """Return whether the container runtime would start the image on the card."""
    return all(is_satisfied(expression, card, data) for expression in image.requires)


def _unread_platform(platform: str, image: ImageFacts) -> Problem:
    return Problem(
        "unknown_build",
        f"it is not known whether {image.reference} is built for {platform}",
        "its manifest was not read, and most images with CUDA are built for linux/amd64 alone",
        f"let `provision mirror check {image.reference} --platform {base_platform(platform)}` read it",
    )


def _is_for_others(card: Card, image: ImageFacts, data: CompatibilityData) -> bool:
    return image.integrated and not card.integrated and sm_number(card.capability) not in data.code_rules.exact


def _integrated_problems(card: Card, image: ImageFacts, data: CompatibilityData) -> tuple[Problem, ...]:
    if not _is_for_others(card, image, data):
        return ()
    return (
        Problem(
            "wrong_platform",
            f"an -igpu image is built for the integrated GPUs of Jetson boards, not for {card}",
            "its libraries are those of JetPack",
            "use a tag without -igpu whose own list of architectures has this card",
        ),
    )


def _has_driver(card: Card, image: ImageFacts, data: CompatibilityData) -> bool:
    """Check the driver floor of the CUDA major. The toolkit's own driver would be too strict: older ones run too."""
    if image.cuda is None or card.driver is None:
        return True
    floor = data.driver_floor(image.cuda)
    return floor is not None and (card.driver >= floor or has_forward_compatibility(card, image, data))


def _toolkit_problems(card: Card, image: ImageFacts, data: CompatibilityData) -> tuple[Problem, ...]:
    if _has_driver(card, image, data) or image.cuda is None:
        return ()
    floor = data.driver_floor(image.cuda)
    if floor is None:
        return (
            Problem(
                "unknown_build",
                f"the oldest driver for CUDA {image.cuda} is not known",
                f"the compatibility data of {data.version} ends before it",
                f"{describe_other_image(card, data)}, or update provisioner once its compatibility data has this one",
            ),
        )
    return (
        Problem(
            "driver_too_old",
            f"driver {card.driver} is older than {floor}, the first for CUDA {image.cuda}",
            f"every CUDA {image.cuda.major}.x needs driver {floor} or newer (minor-version compatibility)",
            ", or ".join(_ways_to_run(card, image, floor, data)) or describe_other_image(card, data),
        ),
    )


def _ways_to_run(card: Card, image: ImageFacts, floor: DriverVersion, data: CompatibilityData) -> Iterator[str]:
    """Yield what helps a card whose driver is older than `floor`, the first for the image's CUDA."""
    state = find_code(card, image, data)
    driver = proposed_driver(card, floor, data)
    if driver is not None and state not in {"too_old", "missing"}:
        yield f"install driver {driver}"
    if state == "runs" and drives(card, data) and devel_image_would_run(card, image, data):
        yield "use the -devel tag, whose compatibility package runs on this card and driver"
    if here := describe_image_here(card, data):
        yield here + ("" if driver else " (no driver with this CUDA drives the cards of this node)")


def _require_problems(card: Card, image: ImageFacts, data: CompatibilityData) -> tuple[Problem, ...]:
    if not card.require_checked or card.driver is None:
        return ()
    return tuple(
        _require_problem(card, image, expression, data)
        for expression in image.requires
        if not is_satisfied(expression, card, data)
    )


def _require_problem(card: Card, image: ImageFacts, expression: str, data: CompatibilityData) -> Problem:
    first, *others = expression.split()
    required = first + (f" or one of {len(others)} exceptions for older branches" if others else "")
    return Problem(
        "container_require",
        f"the container runtime would refuse the image: it requires {required}",
        (
            f"driver {card.driver} supports CUDA {data.cuda_of(card.driver) if card.driver else 'unknown'}, and no"
            f" exception is for brand {card.brand or 'unknown'} ({card.name})"
        ),
        ", or ".join(_ways_without_check(card, image, data)) or describe_other_image(card, data),
    )


def _ways_without_check(card: Card, image: ImageFacts, data: CompatibilityData) -> Iterator[str]:
    """Yield what helps where the container runtime refuses an image, each only if the image then runs."""
    plain = image.model_copy(update={"requires": ()})
    if _runs(card, plain, data):
        if image.flavour == "devel":
            yield "use the -runtime tag, which requires nothing"
        if not replaces_libcuda(card.driver, image, data):
            yield "let CDI give the cards to containers, which does not check"
    needed = data.toolkit_driver(image.cuda) if image.cuda else None
    driver = None if needed is None else proposed_driver(card, needed, data)
    after = card.model_copy(update={"driver": driver})
    if driver is not None and _runs(after, plain, data) and _is_admitted(after, image, data):
        yield f"install driver {driver}"


def _runs(card: Card, image: ImageFacts, data: CompatibilityData) -> bool:
    """Return whether an image that requires nothing runs, whatever the kernel module."""
    return drives(card, data) and find_code(card, image, data) == "runs" and _has_driver(card, image, data)


_SYNC_WHY = {
    SyncState.PARTIAL: "some of its layers are missing, so a pull would fail",
    SyncState.ABSENT: "the mirror does not have this tag",
    SyncState.COLD: "the mirror would have to fetch it from its upstream first",
    SyncState.DENIED: "the mirror refuses access to it",
    SyncState.LIMITED: "the mirror answered with too many requests, so its state is not known",
    SyncState.STALE: "its upstream has another image under this tag: the mirror's is older, or never came from there",
    SyncState.NO_SUCH_SERVICE: "no registry answers at this address",
    SyncState.UNKNOWN: "it is not known whether it is complete, and unknown counts as incomplete",
}


def sync_problems(image: ImageFacts) -> tuple[Problem, ...]:
    """Return the problem of an image that is not complete on the mirror."""
    if image.sync is SyncState.COMPLETE:
        return ()
    return (
        Problem(
            "not_synced",
            f"{image.reference} is {image.sync.replace('_', ' ')} on the mirror",
            _SYNC_WHY[image.sync],
            f"see what is missing with `provision mirror check {image.reference}`, and wait until it is complete",
        ),
    )
