"""Whether one image runs on one card or node, with every reason against it."""

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.forward_compatibility import devel_image_would_run, has_forward_compatibility
from provisioner.domain.compatibility.gpu import Card, build_cards, driver_problems, proposed_driver
from provisioner.domain.compatibility.gpu_code import kernel_problems, sm_number
from provisioner.domain.compatibility.requirement import is_satisfied
from provisioner.domain.values.image import ImageFacts, base_platform
from provisioner.domain.values.model import Value
from provisioner.domain.values.node import NodeProfile
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.sync import SyncState


class Verdict(Value):
    """Every reason why an image does not run; empty if it runs."""

    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the image runs."""
        return not self.problems


def judge(node: NodeProfile, image: ImageFacts, data: CompatibilityData) -> Verdict:
    """Judge one image on all GPUs of one node, including its state on the mirror."""
    found = [*image_problems(node.platform, image)]
    if not node.gpus:
        found.append(no_gpu_problem())
    for card in build_cards(node, data):
        found += (*driver_problems(card, data), *card_image_problems(card, image, data))
    return Verdict(problems=tuple(dict.fromkeys((*found, *sync_problems(image)))))


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
    return (
        Problem(
            "wrong_platform",
            f"{image.reference} is built for {', '.join(image.platforms) or 'no platform'}, the node is {platform}",
            "machine code for another processor does not run on it",
            (
                f"use an image for {platform}"
                + (", for example nvcr.io/nvidia/pytorch:YY.MM-py3" if platform == "linux/arm64" else "")
            ),
        ),
    )


def _integrated_problems(card: Card, image: ImageFacts, data: CompatibilityData) -> tuple[Problem, ...]:
    if not image.integrated or card.integrated or sm_number(card.capability) in data.code_rules.exact:
        return ()
    return (
        Problem(
            "wrong_platform",
            f"an -igpu image is built for the integrated GPUs of Jetson boards, not for {card}",
            "its libraries are those of JetPack",
            "use the tag of the same month without -igpu",
        ),
    )


def _toolkit_problems(card: Card, image: ImageFacts, data: CompatibilityData) -> tuple[Problem, ...]:
    """Check the driver floor of the CUDA major. The toolkit's own driver would be too strict: older ones run too."""
    if image.cuda is None or card.driver is None:
        return ()
    floor = data.driver_floor(image.cuda)
    if floor is None:
        return (
            Problem(
                "unknown_build",
                f"the oldest driver for CUDA {image.cuda} is not known",
                f"the compatibility data of {data.version} ends before it",
                "choose a tag with an older CUDA, or update provisioner once its compatibility data has this one",
            ),
        )
    if card.driver >= floor or has_forward_compatibility(card, image, data):
        return ()
    driver = proposed_driver(card, floor, data)
    architecture = data.architecture(card.capability)
    last = None if architecture is None else architecture.last_branch
    older = f"use a tag with a CUDA older than {image.cuda.major}"
    if devel_image_would_run(card, image, data):
        older += ", or the -devel tag, whose compatibility package runs on this card and driver"
    return (
        Problem(
            "driver_too_old",
            f"driver {card.driver} is older than {floor}, the first for CUDA {image.cuda}",
            f"every CUDA {image.cuda.major}.x needs driver {floor} or newer (minor-version compatibility)",
            (
                f"install driver {driver}, or {older}"
                if driver
                else older + (f": no driver after branch {last} drives {card}" if last is not None else "")
            ),
        ),
    )


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
    own = data.toolkit_driver(image.cuda) if image.cuda else None
    driver = proposed_driver(card, own, data) if own else None
    return Problem(
        "container_require",
        f"the container runtime would refuse the image: it requires {required}",
        (
            f"driver {card.driver} supports CUDA {data.cuda_of(card.driver) if card.driver else 'unknown'}, and no"
            f" exception is for brand {card.brand or 'unknown'} ({card.name})"
        ),
        "use the -runtime tag, or CDI, which does not check" + (f", or install driver {driver}" if driver else ""),
    )


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
