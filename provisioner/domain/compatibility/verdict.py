"""Whether one image runs on one card or node: every reason against it at once, never a guess."""

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.forward_compatibility import runs_forward, would_as_devel
from provisioner.domain.compatibility.gpu import Card, cards, driven
from provisioner.domain.compatibility.gpu_code import kernel_problems, number
from provisioner.domain.compatibility.requirement import satisfied
from provisioner.domain.values.image import ImageFacts, base_platform
from provisioner.domain.values.model import Value
from provisioner.domain.values.node import NodeProfile
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.sync import SyncState


class Verdict(Value):
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems


def judge(node: NodeProfile, image: ImageFacts, data: CompatibilityData) -> Verdict:
    """One image on all GPUs of one node."""
    found = [*image_problems(node.platform, image)]
    if not node.gpus:
        found.append(no_gpu())
    for card in cards(node, data):
        found += own_problems(card, image, data)
    return Verdict(problems=tuple(dict.fromkeys((*found, *sync_problems(image)))))


def no_gpu() -> Problem:
    return Problem(
        "gpu_not_visible",
        "no usable NVIDIA GPU was found on this node",
        "every image here is for NVIDIA GPUs, and a node without one would silently compute on its CPU",
        "see `nvidia-smi` and `lspci -d 10de:` on the node, then `provision probe` again",
    )


def image_problems(platform: str, image: ImageFacts) -> tuple[Problem, ...]:
    """What is wrong with an image for every card of a platform."""
    return (*platform_problems(platform, image), *image.problems)


def own_problems(card: Card, image: ImageFacts, data: CompatibilityData) -> tuple[Problem, ...]:
    """Every reason of its own why a card does not run an image; their words name the build, not the reference."""
    return (*driven(card, data), *problems_together(card, image, data))


def problems_together(card: Card, image: ImageFacts, data: CompatibilityData) -> tuple[Problem, ...]:
    """Those of a card and an image together, where the card itself is driven or not."""
    return (
        *_integrated_problems(card, image, data),
        *kernel_problems(card, image, data),
        *_toolkit_problems(card, image, data),
        *_require_problems(card, image, data),
    )


def platform_problems(platform: str, image: ImageFacts) -> tuple[Problem, ...]:
    if base_platform(platform) in image.platforms:
        return ()
    return (
        Problem(
            "wrong_platform",
            f"{image.reference} is made for {', '.join(image.platforms) or 'no platform'}, the node is {platform}",
            "machine code of another processor does not run here",
            (
                f"use an image for {platform}"
                + (", for example nvcr.io/nvidia/pytorch:YY.MM-py3" if platform == "linux/arm64" else "")
            ),
        ),
    )


def _integrated_problems(card: Card, image: ImageFacts, data: CompatibilityData) -> tuple[Problem, ...]:
    if not image.integrated or card.integrated or number(card.capability) in data.code_rules.exact:
        return ()
    return (
        Problem(
            "wrong_platform",
            f"an -igpu image is made for the integrated GPUs of Jetson boards, not for {card}",
            "its libraries are those of JetPack",
            "use the tag of the same month without -igpu",
        ),
    )


def _toolkit_problems(card: Card, image: ImageFacts, data: CompatibilityData) -> tuple[Problem, ...]:
    """The floor is that of the CUDA major, not the toolkit's own driver: asking for that one refuses what runs."""
    if image.cuda is None or card.driver is None:
        return ()
    floor = data.driver_floor(image.cuda)
    if floor is None:
        return (_unknown_cuda(image, data),)
    if card.driver >= floor or runs_forward(card, image, data):
        return ()
    architecture = data.architecture(card.capability)
    last = None if architecture is None else architecture.last_branch
    older = f"use a tag with a CUDA older than {image.cuda.major}"
    if would_as_devel(card, image, data):
        older += ", or the -devel tag, whose compatibility package runs on this card and driver"
    return (
        Problem(
            "driver_too_old",
            f"driver {card.driver} is older than {floor}, the first for CUDA {image.cuda}",
            f"every CUDA {image.cuda.major}.x needs driver {floor} or newer (minor-version compatibility)",
            (
                f"{older}: no driver after branch {last} drives {card}"
                if last is not None and last < floor.major
                else f"install driver {data.first_driver(floor)} or newer, or {older}"
            ),
        ),
    )


def _unknown_cuda(image: ImageFacts, data: CompatibilityData) -> Problem:
    return Problem(
        "unknown_build",
        f"the oldest driver for CUDA {image.cuda} is not known",
        f"the compatibility data of {data.version} ends before it",
        "choose a tag with an older CUDA, or update provisioner when its compatibility data knows this one",
    )


def _require_problems(card: Card, image: ImageFacts, data: CompatibilityData) -> tuple[Problem, ...]:
    if not card.require_checked or card.driver is None:
        return ()
    return tuple(
        _container_require(card, image, expression, data)
        for expression in image.requires
        if not satisfied(expression, card, data)
    )


def _container_require(card: Card, image: ImageFacts, expression: str, data: CompatibilityData) -> Problem:
    first, *others = expression.split()
    wanted = first + (f" or one of {len(others)} exceptions for older branches" if others else "")
    needed = data.toolkit_driver(image.cuda) if image.cuda else None
    return Problem(
        "container_require",
        f"the container runtime would refuse the image: it demands {wanted}",
        (
            f"driver {card.driver} speaks CUDA {data.cuda_of(card.driver) if card.driver else 'unknown'}, and no"
            f" exception is for brand {card.brand or 'unknown'} ({card.name})"
        ),
        (
            "use the -runtime tag, or CDI, which does not check"
            + (f", or install driver {needed} or newer" if needed else ", or install a newer driver")
        ),
    )


_SYNC_WHY = {
    SyncState.PARTIAL: "some of its layers are not there yet, and a pull would stop half-way",
    SyncState.ABSENT: "the mirror does not know this tag",
    SyncState.COLD: "the mirror would have to fetch it from its upstream first",
    SyncState.DENIED: "the mirror does not hand it out to us",
    SyncState.LIMITED: "the mirror answered that there were too many requests, so nobody could look",
    SyncState.STALE: "its upstream has another image under this tag: the mirror's is older, or was never upstream's",
    SyncState.NO_SUCH_SERVICE: "nothing there speaks the registry protocol",
    SyncState.UNKNOWN: "nobody could tell whether it is complete, and unknown counts as not",
}


def sync_problems(image: ImageFacts) -> tuple[Problem, ...]:
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
