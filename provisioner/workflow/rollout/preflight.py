"""Right before the first node is touched: what is to be pulled is there, every layer, where the nodes pull it from."""

from collections.abc import Iterable, Sequence

from provisioner.domain.rollout.order import OrderedImage, ordered
from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.size import human_size
from provisioner.domain.values.sync import SyncReport, SyncState
from provisioner.workflow.protocols import ImageCheck
from provisioner.workflow.rollout.plan import PreparedPlan

# A look from here that ends so says nothing of what a node would find.
_UNCERTAIN = {SyncState.UNKNOWN, SyncState.DENIED, SyncState.LIMITED, SyncState.NO_SUCH_SERVICE}


def confirm(
    images: Sequence[OrderedImage], shelf: ImageCheck, on_event: OnEvent, *, again: str, certain: bool = False
) -> None:
    """Looks by digest at every image that is to be pulled. Raises ProblemError where one is not complete.

    `again`: how to get an image back. `certain`: only what is known to be missing ends the run.
    """
    if not images:
        return
    on_event(Event(phase="stage", kind="started", text="looking once more at every layer that is to be pulled"))
    found = list(_looked_at(images, shelf))
    unproven = [(image, report) for image, report in found if report.state is not SyncState.COMPLETE]
    gone = [pair for pair in unproven if not (certain and pair[1].state in _UNCERTAIN)]
    if gone:
        raise ProblemError([problem for image, report in gone for problem in _gone(image, report, again)])
    on_event(Event(phase="stage", kind="note" if unproven else "done", text=_seen([report for _, report in found])))


def to_pull(prepared: PreparedPlan) -> list[OrderedImage]:
    """By a pending step, each image once. One whose size nobody knows counts as not yet on the node."""
    images = [(step, ordered(prepared.bundles[step.node].image)) for step in prepared.plan.pending]
    return once(image for step, image in images if step.bytes_to_pull or not image.bytes)


def once(images: Iterable[OrderedImage]) -> list[OrderedImage]:
    return list({image.reference: image for image in images}.values())


def _looked_at(images: Iterable[OrderedImage], shelf: ImageCheck) -> Iterable[tuple[OrderedImage, SyncReport]]:
    by_platform: dict[str, list[OrderedImage]] = {}
    for image in images:
        by_platform.setdefault(image.platform, []).append(image)
    for platform, alike in by_platform.items():
        yield from zip(alike, shelf.check([ImageReference.parse(i.reference) for i in alike], platform), strict=True)


def _seen(reports: Sequence[SyncReport]) -> str:
    if any(report.state is not SyncState.COMPLETE for report in reports):
        return "the lab's registry could not be asked from here; the pull itself will tell"
    return f"{human_size(sum(report.bytes for report in reports))} to be pulled are on the lab's registry, every layer"


def _gone(image: OrderedImage, report: SyncReport, again: str) -> list[Problem]:
    """One problem for each fault, in the words of the look, with the image it is about and the way out."""
    what = f"{image.tag} as locked ({image.reference}) is {report.state.replace('_', ' ')} on the lab's own registry"
    seen = [problem.what for problem in report.problems] or ["it did not say why"]
    why = "the nodes pull from there alone; none was touched for it, so everything old still runs"
    fix = f"{again}; a registry that was damaged from outside may first need a restart: it remembers what it had"
    return [Problem("not_on_registry", f"{what}: {text}", why, fix) for text in seen]
