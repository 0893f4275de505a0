"""Whether a tag still means on the mirror what it means upstream: asked of few tags, and each only once."""

from collections.abc import Callable
from typing import Protocol

from provisioner.domain.lab.lab import Mirror as MirrorSettings
from provisioner.domain.registry.catalog import Listing
from provisioner.domain.registry.image_problems import Fault, stale
from provisioner.domain.values.image_identity import Identity, same_image
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState

_FEW = 5  # tags of one look; Docker Hub counts 100 pulls in 6 hours, and a whole campus may share them
Above = Callable[[ImageReference], ImageReference | None]


class Here(Protocol):
    def identity(self, reference: ImageReference, platform: str) -> Identity | None: ...


class There(Here, Protocol):
    def digest(self, reference: ImageReference) -> str | None: ...


class Freshness:
    """Holds what a mirror has complete against its upstream.

    `above`: what a reference is called upstream; None where nobody knows. `unknown`: why upstream did not answer; it
    is then asked no more, and what the mirror has counts as fresh. `most`: tags that are asked for.
    """

    def __init__(self, mirror: Here, upstream: There, above: Above, most: int = _FEW) -> None:
        self._mirror, self._upstream, self._above, self._left = mirror, upstream, above, most
        self.unknown: tuple[Problem, ...] = ()

    def listing(self, entry: Listing) -> Listing:
        report = self.report(entry.report)
        image = entry.image.model_copy(update={"sync": report.state, "problems": report.problems})
        return entry if report is entry.report else Listing(image=image, report=report)

    def report(self, report: SyncReport) -> SyncReport:
        """The same report, or that of a stale image. What is not complete is told as it is."""
        reference = ImageReference.parse(report.reference)
        above = self._above(reference)
        if report.state is not SyncState.COMPLETE or above is None or not self._left or self.unknown:
            return report
        self._left -= 1
        try:
            fault = self._compared(report, reference, above)
        except ProblemError as stopped:
            self.unknown = stopped.problems
            return report
        return report if fault is None else _with(report, fault)

    def _compared(self, report: SyncReport, reference: ImageReference, above: ImageReference) -> Fault | None:
        """By HEAD; the manifests are read only where that tells two names apart."""
        there = self._upstream.digest(above)
        if there is None or there == report.digest:
            return None
        here = self._mirror.identity(reference.model_copy(update={"digest": None}), report.platform)
        if here is None or here.tag == there:
            return None
        upstream = self._upstream.identity(above.pinned(there), report.platform)
        if upstream is None or same_image(here, upstream):
            return None
        return stale(report.reference, here.manifest, str(above.registry), upstream.manifest)


def named_above(wish: MirrorSettings) -> Above:
    """By lab.yml: the same repository, or the one that stands in the same place of upstream's list."""

    def above(reference: ImageReference) -> ImageReference | None:
        if wish.upstream is None or reference.tag is None:
            return None
        names = wish.upstream.repositories or wish.repositories
        pairs = dict(zip(wish.repositories, names, strict=True)) if len(names) == len(wish.repositories) else {}
        name = pairs.get(reference.repository)
        return (
            None if name is None else ImageReference(registry=wish.upstream.address, repository=name, tag=reference.tag)
        )

    return above


def _with(report: SyncReport, fault: Fault) -> SyncReport:
    return report.model_copy(update={"state": fault.state, "problems": (*report.problems, fault.problem)})
