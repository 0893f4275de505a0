"""Check right before the first change that every layer to be pulled is on the registry that the nodes pull from."""

from collections.abc import Iterable, Sequence

from provisioner.domain.lab.ordered import OrderedImage, order_image
from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.size import human_size
from provisioner.domain.values.sync import SyncReport, SyncState
from provisioner.workflow.protocols import ImageCheck
from provisioner.workflow.rollout.plan import PreparedPlan

# A check from this machine that ends so does not show what a node would find.
_UNCERTAIN = {SyncState.UNKNOWN, SyncState.DENIED, SyncState.LIMITED, SyncState.NO_SUCH_SERVICE}


def check_images(
    images: Sequence[OrderedImage], registry: ImageCheck, on_event: OnEvent, *, fix: str, only_certain: bool = False
) -> None:
    """Check by digest every image that is to be pulled. Raises ProblemError where one is not complete.

    `fix`: how to restore an image. `only_certain`: ignore images whose state could not be determined from here.
    """
    if not images:
        return
    on_event(Event(phase="stage", kind="started", text="checking every layer that is to be pulled"))
    found = list(_check_by_platform(images, registry))
    incomplete = [(image, report) for image, report in found if report.state is not SyncState.COMPLETE]
    fatal = [pair for pair in incomplete if not (only_certain and pair[1].state in _UNCERTAIN)]
    if fatal:
        raise ProblemError([problem for image, report in fatal for problem in _image_problems(image, report, fix)])
    text = f"{human_size(sum(report.bytes for _, report in found))} to pull, every layer is on the lab's registry"
    if incomplete:
        text = "the lab's registry could not be checked from this machine; a missing layer will fail the pull"
    on_event(Event(phase="stage", kind="note" if incomplete else "done", text=text))


def images_to_pull(prepared: PreparedPlan) -> list[OrderedImage]:
    """Return the images that pending steps pull, each once. An image of unknown size counts as to be pulled."""
    bundles = [(step, prepared.bundle(step)) for step in prepared.plan.pending]
    images = [(step, order_image(bundle.image)) for step, bundle in bundles if bundle is not None]
    wanted = [image for step, image in images if step.bytes_to_pull or not image.bytes]
    return unique_images((*wanted, *_published_images(prepared)))


def _published_images(prepared: PreparedPlan) -> Iterable[OrderedImage]:
    """Return the images of self-service that nodes lack."""
    lacking = {publication.node for publication in prepared.plan.published if publication.bytes_to_pull}
    return (image for node in lacking & prepared.published.keys() for image in prepared.published[node].config.images)


def unique_images(images: Iterable[OrderedImage]) -> list[OrderedImage]:
    """Return each image once, by reference."""
    return list({image.reference: image for image in images}.values())


def _check_by_platform(
    images: Iterable[OrderedImage], registry: ImageCheck
) -> Iterable[tuple[OrderedImage, SyncReport]]:
    by_platform: dict[str, list[OrderedImage]] = {}
    for image in images:
        by_platform.setdefault(image.platform, []).append(image)
    for platform, group in by_platform.items():
        yield from zip(group, registry.check([ImageReference.parse(i.reference) for i in group], platform), strict=True)


def _image_problems(image: OrderedImage, report: SyncReport, fix: str) -> list[Problem]:
    """Return one problem for each fault that the check found, with the image and how to restore it."""
    what = f"{image.tag} as locked ({image.reference}) is {report.state.replace('_', ' ')} on the lab's own registry"
    faults = [problem.what for problem in report.problems] or ["the registry gave no reason"]
    why = "the nodes pull from this registry only; none was touched, so every seat runs as before"
    fix = f"{fix}; a registry whose storage was damaged may first need a restart, because it caches what it had"
    return [Problem("not_on_registry", f"{what}: {fault}", why, fix) for fault in faults]
