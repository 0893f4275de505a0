"""A registry, read without an engine: the tags it offers, and everything the other modules of this room do with it."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from provisioner.adapters.registry.contents import RepositoryContents
from provisioner.adapters.registry.http import RequestFailed
from provisioner.adapters.registry.image_checker import ImageChecker, build_listing
from provisioner.adapters.registry.image_inspector import ImageInspector
from provisioner.adapters.registry.reader import ImageMetadata
from provisioner.domain.registry.catalog import Catalog
from provisioner.domain.registry.image_problems import Fault, listed_only
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference


def _any_tag(_: str) -> bool:
    return True


def _now() -> datetime:
    return datetime.now(UTC)


class CatalogReader(ImageChecker):
    """Lists tags. Raises ProblemError where not one repository can be listed."""

    def tags(self, repository: str) -> tuple[str, ...]:
        """Return the tags of images in the registry's order, without signatures."""
        try:
            return self._reader.tags(repository)
        except RequestFailed as failed:
            problem = failed.fault.problem
            raise ProblemError((problem, *self._proxy_problems([problem]))) from None

    def catalog(
        self,
        repositories: Sequence[str],
        platform: str,
        *,
        wanted: Callable[[str], bool] = _any_tag,
        clock: Callable[[], datetime] = _now,
    ) -> Catalog:
        """Return each wanted tag with the check of its image; without layers on a mirror that would download them."""
        references, problems = self._references(repositories, wanted)
        listings = self._check_images(references, platform, layers=not self._lazy)
        return Catalog(mirror=self.address, checked_at=clock(), listings=listings, problems=problems)

    def listed(
        self,
        repositories: Sequence[str],
        platform: str,
        *,
        wanted: Callable[[str], bool] = _any_tag,
        clock: Callable[[], datetime] = _now,
    ) -> Catalog:
        """Return each wanted tag by its name alone, for one request a repository. Its image counts as cold."""
        references, problems = self._references(repositories, wanted)
        listings = tuple(build_listing(ImageMetadata(ref), platform, {}, [listed_only()]) for ref in references)
        return Catalog(mirror=self.address, checked_at=clock(), listings=listings, problems=problems)

    def _references(
        self, repositories: Sequence[str], wanted: Callable[[str], bool]
    ) -> tuple[list[ImageReference], tuple[Problem, ...]]:
        """Return the wanted tags, and a problem for each repository that cannot be listed."""
        answers = self._run_all(self._tags_or_fault, repositories, "Listing tags")
        problems = tuple(answer.problem for answer in answers if isinstance(answer, Fault))
        if problems and len(problems) == len(repositories):
            raise ProblemError((*dict.fromkeys(problems), *self._proxy_problems(problems)))
        references = [
            ImageReference(registry=self.address, repository=repository, tag=tag)
            for repository, tags in zip(repositories, answers, strict=True)
            if not isinstance(tags, Fault)
            for tag in tags
            if wanted(tag)
        ]
        return references, problems

    def _tags_or_fault(self, repository: str) -> tuple[str, ...] | Fault:
        try:
            return self._reader.tags(repository)
        except RequestFailed as failed:
            return failed.fault


class Registry(CatalogReader, ImageInspector, RepositoryContents):
    """One registry for every job, over one connection: tags, checks, single images, and removal."""
