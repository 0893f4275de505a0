"""Check whether a tag names the same image on the mirror as upstream. Few tags are compared, each only once."""

from collections.abc import Callable
from typing import Protocol

from provisioner.domain.lab.lab import Mirror as MirrorSettings
from provisioner.domain.registry.catalog import Listing
from provisioner.domain.registry.image_problems import Fault, stale
from provisioner.domain.values.image_identity import ImageIdentity, is_same_image
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState

_LIMIT = 5  # tags compared in one run; Docker Hub counts 100 pulls in 6 hours, and a whole campus may share them
UpstreamName = Callable[[ImageReference], ImageReference | None]


class IdentitySource(Protocol):
    """A registry that returns the digests of an image."""

    def identity(self, reference: ImageReference, platform: str) -> ImageIdentity | None:
        """Return the identity of the image, or None if there is no such image."""


class UpstreamSource(IdentitySource, Protocol):
    """A registry that also returns the digest of a tag by a HEAD request."""

    def digest(self, reference: ImageReference) -> str | None:
        """Return the digest that the tag has now, or None if there is no such tag."""


class Freshness:
    """Compares what a mirror has complete with its upstream.

    `map_name` returns the upstream name of a reference, or None if it is unknown. At most `limit` tags are compared.
    `unknown` holds why upstream did not answer; it is then not asked again, and the mirror's tags count as fresh.
    """

    def __init__(
        self, mirror: IdentitySource, upstream: UpstreamSource, map_name: UpstreamName, limit: int = _LIMIT
    ) -> None:
        """Compare nothing yet."""
        self._mirror, self._upstream, self._map_name, self._left = mirror, upstream, map_name, limit
        self.unknown: tuple[Problem, ...] = ()

    def listing(self, entry: Listing) -> Listing:
        """Return the same listing, or one that is marked stale."""
        report = self.report(entry.report)
        image = entry.image.model_copy(update={"sync": report.state, "problems": report.problems})
        return entry if report is entry.report else entry.model_copy(update={"image": image, "report": report})

    def report(self, report: SyncReport) -> SyncReport:
        """Return the same report, or one that is marked stale. Reports of incomplete images are returned unchanged."""
        reference = ImageReference.parse(report.reference)
        upstream_name = self._map_name(reference)
        if report.state is not SyncState.COMPLETE or upstream_name is None or not self._left or self.unknown:
            return report
        self._left -= 1
        try:
            fault = self._compare(report, reference, upstream_name)
        except ProblemError as stopped:
            self.unknown = stopped.problems
            return report
        if fault is None:
            return report
        return report.model_copy(update={"state": fault.state, "problems": (*report.problems, fault.problem)})

    def _compare(self, report: SyncReport, reference: ImageReference, upstream_name: ImageReference) -> Fault | None:
        """Compare digests by HEAD; read the manifests only where the digests differ."""
        digest = self._upstream.digest(upstream_name)
        if digest is None or digest == report.digest:
            return None
        here = self._mirror.identity(reference.model_copy(update={"digest": None}), report.platform)
        if here is None or here.tag == digest:
            return None
        upstream = self._upstream.identity(upstream_name.pinned(digest), report.platform)
        if upstream is None or is_same_image(here, upstream):
            return None
        return stale(report.reference, here.manifest, str(upstream_name.registry), upstream.manifest)


def upstream_mapper(settings: MirrorSettings) -> UpstreamName:
    """Return the function that maps a mirror reference to its upstream name, by the repositories in lab.yml.

    A repository has the same name upstream, or the name at the same place of `mirror.upstream.repositories`.
    """

    def map_name(reference: ImageReference) -> ImageReference | None:
        upstream = settings.upstream
        if upstream is None or reference.tag is None:
            return None
        names = upstream.repositories or settings.repositories
        if len(names) != len(settings.repositories):
            return None
        name = dict(zip(settings.repositories, names, strict=True)).get(reference.repository)
        return None if name is None else ImageReference(registry=upstream.address, repository=name, tag=reference.tag)

    return map_name
