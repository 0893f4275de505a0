"""Measure images: find each by its digest, pull it where needed, and read what its torch was compiled for."""

from collections.abc import Callable, Sequence
from typing import Protocol

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.registry.catalog import Listing
from provisioner.domain.selection.measured import ImageMeasurement, compare_with_data
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.measured import Measurement
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference

Inspect = Callable[[ImageReference, str], Listing]


class Engine(Protocol):
    """The Docker Engine of this machine. Methods raise ProblemError."""

    def platform(self) -> str:
        """Return the platform of images that run here, such as linux/amd64."""

    def digests(self, reference: ImageReference) -> Sequence[str] | None:
        """Return the digests of an image that the engine has; None if it does not have it."""

    def pull(self, reference: ImageReference, size: int) -> None:
        """Pull an image by digest. `size` in bytes, for progress."""

    def measure(self, reference: str, script: str) -> Measurement:
        """Run the Python `script` in an image and parse what it prints of torch. Never raises."""


def measure_images(
    references: Sequence[ImageReference], engine: Engine, inspect: Inspect, script: str, data: CompatibilityData
) -> list[ImageMeasurement]:
    """Return what is in each image, in order; of one that cannot be measured, its problems.

    `inspect` asks the image's registry. Raises ProblemError where the engine does not answer.
    """
    platform = engine.platform()
    return [_measure_image(reference, platform, engine, inspect, script, data) for reference in references]


def _measure_image(  # noqa: PLR0913, PLR0917  (the image, and everything that looks at it)
    reference: ImageReference, platform: str, engine: Engine, inspect: Inspect, script: str, data: CompatibilityData
) -> ImageMeasurement:
    try:
        image = _fetch(reference, platform, engine, inspect)
    except ProblemError as error:
        return ImageMeasurement(image=str(reference), platform=platform, problems=error.problems)
    name = reference.pinned(image.digest).by_digest() if image.digest and reference.registry else str(reference)
    found = engine.measure(name, script)
    fields = {"image": str(reference), "digest": image.digest, "platform": platform}
    if found.measured is None:
        return ImageMeasurement(**fields, problems=(_unmeasured(reference, found.reason),))
    differences = compare_with_data(image, found.measured, platform, data)
    problems = () if image.digest else (_no_row(reference),)
    return ImageMeasurement(
        **fields, measured=found.measured, how=found.how, differences=differences, problems=problems
    )


def _fetch(reference: ImageReference, platform: str, engine: Engine, inspect: Inspect) -> TaggedImage:
    """Return an image that the engine has now, with the digest that its registry names for this platform.

    One that its registry does not have is taken from the engine.
    """
    listing = inspect(reference, platform) if reference.registry else None
    if listing is not None and listing.report.digest is not None:
        pinned = reference.pinned(listing.report.digest)
        if engine.digests(pinned) is None:
            engine.pull(pinned, listing.report.bytes)
        return listing.image
    local = engine.digests(reference)
    if local is None:
        raise ProblemError((_no_image(reference),) if listing is None else listing.report.problems)
    return TaggedImage(reference=str(reference), digest=next(iter(local), None))


def _no_image(reference: ImageReference) -> Problem:
    return Problem(
        "no_image",
        f"the engine of this machine has no image {reference}",
        "the name has no registry, so the image is looked for in the engine only",
        f"write it with its registry, such as docker.io/{reference}",
    )


def _no_row(reference: ImageReference) -> Problem:
    return Problem(
        "no_digest",
        f"{reference} has no digest: no registry has it",
        "a lab records what is in an image by its digest, as a tag may lead to another image tomorrow",
        "push it to the lab's mirror, and measure it by its name there",
    )


def _unmeasured(reference: ImageReference, reason: str) -> Problem:
    return Problem(
        "unmeasured",
        f"what the torch of {reference} was compiled for could not be read: {reason}",
        "the image's own python3 reads it, from torch or from the libraries of torch",
        f"see what `docker run --rm --entrypoint python3 {reference} -c 'import torch'` says",
    )
