"""What a repository of one's own holds, and taking images out of it."""

from collections.abc import Iterable
from http import HTTPStatus

from provisioner.adapters.registry.http import Refused, Request, up_to
from provisioner.adapters.registry.reader import ManifestMissing, Reader
from provisioner.domain.registry.gc import HeldImage
from provisioner.domain.registry.image_problems import unreachable
from provisioner.domain.registry.manifest import ImageIndex, digest_of, read_manifest
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference

_ANSWER_LIMIT = 1 << 16


def held(reader: Reader, repository: str, tags: Iterable[str]) -> tuple[HeldImage, ...]:
    """Each manifest once, with all its tags. Raises Refused; a tag that is gone meanwhile is none."""
    found: dict[str, HeldImage] = {}
    for tag in tags:
        try:
            body = reader.manifest(ImageReference(registry=reader.address, repository=repository, tag=tag))
        except ManifestMissing:
            continue
        image = found.get(digest_of(body)) or _image(body)
        found[image.digest] = image.model_copy(update={"tags": (*image.tags, tag)})
    return tuple(found.values())


def _image(body: bytes) -> HeldImage:
    """What cannot be read is nobody's to judge: it is held without blobs, so nothing is promised of it."""
    digest = digest_of(body)
    try:
        manifest = read_manifest(body)
    except ValueError:
        return HeldImage(digest=digest, tags=())
    if isinstance(manifest, ImageIndex):
        return HeldImage(digest=digest, tags=(), children=tuple(entry.digest for entry in manifest.manifests))
    return HeldImage(digest=digest, tags=(), blobs=manifest.parts)


def delete(reader: Reader, repository: str, digest: str) -> None:
    """A manifest, and so every tag of it; one that is gone already is as good. Raises Refused or ProblemError."""
    name = reader.repository(repository)
    request = Request("", method="DELETE")
    reply = reader.session.ask(f"{name}/manifests/{digest}", up_to(_ANSWER_LIMIT), name, request)
    if reply.status == HTTPStatus.METHOD_NOT_ALLOWED:
        raise ProblemError(_not_allowed(reader.address))
    if reply.status not in (HTTPStatus.ACCEPTED, HTTPStatus.OK, HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND):
        raise Refused(unreachable(reply.host, f"HTTP {reply.status} for the removal of a manifest"))


def _not_allowed(address: str) -> Problem:
    return Problem(
        "delete_disabled",
        f"{address} does not let anybody remove images",
        "distribution's registry wants storage.delete.enabled for it",
        "switch it on in the registry's configuration, or remove images by its own means",
    )
