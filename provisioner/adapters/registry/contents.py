"""The images that a repository of the lab's own registry holds, and their removal."""

from http import HTTPStatus

from provisioner.adapters.registry.connection import RegistryConnection
from provisioner.adapters.registry.http import Request, RequestFailed, up_to
from provisioner.adapters.registry.reader import ManifestMissing
from provisioner.domain.registry.gc import HeldImage
from provisioner.domain.registry.image_problems import unreachable
from provisioner.domain.registry.manifest import ImageIndex, digest_of, read_manifest
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference

_ANSWER_LIMIT = 1 << 16
_DELETED = (HTTPStatus.ACCEPTED, HTTPStatus.OK, HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND)


class RepositoryContents(RegistryConnection):
    """Lists and removes the images of a repository. Raises ProblemError where the registry does not answer."""

    def held(self, repository: str) -> tuple[HeldImage, ...]:
        """Return each image that has a tag, once, with all its tags; empty if there is no such repository."""
        try:
            return self._tagged_images(repository)
        except RequestFailed as failed:
            if failed.fault.problem.code == "repository_missing":
                return ()
            raise ProblemError(failed.fault.problem) from None

    def _tagged_images(self, repository: str) -> tuple[HeldImage, ...]:
        found: dict[str, HeldImage] = {}
        for tag in self._reader.tags(repository):
            try:
                body = self._reader.manifest(ImageReference(registry=self.address, repository=repository, tag=tag))
            except ManifestMissing:  # removed since the tags were listed
                continue
            image = found.get(digest_of(body)) or _image(body)
            found[image.digest] = image.model_copy(update={"tags": (*image.tags, tag)})
        return tuple(found.values())

    def delete(self, repository: str, digest: str) -> None:
        """Remove a manifest and so each of its tags. A manifest that does not exist is no error."""
        name = self._reader.repository(repository)
        request = Request("", method="DELETE")
        try:
            reply = self._reader.session.ask(f"{name}/manifests/{digest}", up_to(_ANSWER_LIMIT), name, request)
        except RequestFailed as failed:
            raise ProblemError(failed.fault.problem) from None
        if reply.status == HTTPStatus.METHOD_NOT_ALLOWED:
            what = f"{self.address} does not allow the removal of images"
            why = "distribution's registry allows it only with storage.delete.enabled"
            fix = "set it in the registry's configuration, or remove images with the registry's own tools"
            raise ProblemError(Problem("delete_disabled", what, why, fix))
        if reply.status not in _DELETED:
            reason = f"HTTP {reply.status} for the removal of a manifest"
            raise ProblemError(unreachable(reply.host, reason).problem)


def _image(body: bytes) -> HeldImage:
    """Read a manifest. One that cannot be read is listed without blobs, so its size counts as zero."""
    digest = digest_of(body)
    try:
        manifest = read_manifest(body)
    except ValueError:
        return HeldImage(digest=digest, tags=())
    if isinstance(manifest, ImageIndex):
        return HeldImage(digest=digest, tags=(), children=tuple(entry.digest for entry in manifest.manifests))
    return HeldImage(digest=digest, tags=(), blobs=manifest.parts)
