"""Reads lists of tags, manifests and configs. Every byte is verified against its digest."""

import re
from dataclasses import dataclass, replace
from http import HTTPStatus

from provisioner.adapters.registry.http import (
    BodyCutShort,
    Reply,
    Request,
    RequestFailed,
    is_success,
    join_url,
    read_reason,
    up_to,
)
from provisioner.adapters.registry.session import Session, api_host
from provisioner.domain.registry.image_problems import (
    Fault,
    config_missing,
    digest_mismatch,
    manifest_missing,
    not_an_image,
    platform_missing,
    repository_missing,
    unreachable,
    wrong_platform,
)
from provisioner.domain.registry.manifest import (
    ACCEPT,
    ImageIndex,
    ImageManifest,
    choose,
    digest_of,
    read_config,
    read_manifest,
    read_tags,
    same_platform,
)
from provisioner.domain.values.image import ImageConfig
from provisioner.domain.values.image_identity import ImageIdentity
from provisioner.domain.values.reference import ImageReference

_MANIFEST_LIMIT = 4 << 20  # of the distribution specification
_CONFIG_LIMIT = 8 << 20
# Of one list of tags, all pages together: ten times what the largest public repositories have.
_TAGS_LIMIT = 32 << 20  # bytes
_MAX_TAGS = 100_000
_MAX_PAGES = 2_000
_MAX_INDEXES = 4  # within one another; buildx writes two
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# One link of a Link header and its parameters. No part can match in two ways, so the time is linear.
_LINK = re.compile(r"<([^<>]*+)>([^<]*+)")
_IS_NEXT = re.compile(r';\s*+rel\s*+=\s*+"?next\b', re.IGNORECASE)
_MAX_LINK = 1 << 14  # characters of the header that are read


class ManifestMissing(RequestFailed):
    """The registry answers that it does not have the manifest."""


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """What is known of one image without its layers. `fault`: why other fields are None."""

    reference: ImageReference
    platforms: tuple[str, ...] | None = None
    manifest: ImageManifest | None = None
    config: ImageConfig | None = None
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class ManifestReader:
    """Raises RequestFailed, except `image`. `address` is the registry's name in references."""

    session: Session
    address: str

    def repository(self, name: str) -> str:
        """Return the name in the registry's API: Docker Hub keeps its one-part names under library/."""
        return f"library/{name}" if api_host(self.address) != self.address and "/" not in name else name

    def tags(self, name: str) -> tuple[str, ...]:
        """Return all tags of images in the registry's order. Pages are followed by their links."""
        path, tags, pages = f"{self.repository(name)}/tags/list", dict[str, None](), set[str]()
        left = _TAGS_LIMIT
        while path not in pages and len(pages) < _MAX_PAGES and len(tags) <= _MAX_TAGS:
            pages.add(path)
            reply = self.session.ask(path, up_to(left + 1), self.repository(name))
            left -= len(reply.received)
            if left < 0:
                break
            tags |= dict.fromkeys(self._page(name, reply))
            following = _next_link(reply)
            if following is None:
                return tuple(tags)
            path = following
        raise RequestFailed(unreachable(self.address, "its list of tags has no end"))

    def _page(self, name: str, reply: Reply[bytes]) -> tuple[str, ...]:
        if reply.status == HTTPStatus.NOT_FOUND:
            raise RequestFailed(repository_missing(name, read_reason(reply.received)))
        if reply.status != HTTPStatus.OK:
            reason = f"HTTP {reply.status} for the list of tags"
            raise RequestFailed(unreachable(reply.host, reason, read_reason(reply.received)))
        try:
            return read_tags(reply.received)
        except ValueError:
            raise RequestFailed(unreachable(reply.host, "its list of tags cannot be read")) from None

    def manifest(self, reference: ImageReference) -> bytes:
        """Return the manifest or index, by digest if the reference has one, else by tag."""
        return self._fetch(reference).received

    def _fetch(self, reference: ImageReference) -> Reply[bytes]:
        name = reference.digest or reference.tag or "latest"
        repository = self.repository(reference.repository)
        request = Request("", headers={"Accept": ACCEPT})
        reply = self.session.ask(f"{repository}/manifests/{name}", up_to(_MANIFEST_LIMIT + 1), repository, request)
        if reply.status == HTTPStatus.NOT_FOUND:
            raise ManifestMissing(manifest_missing(str(reference), read_reason(reply.received)))
        if not is_success(reply.status):
            reason = f"HTTP {reply.status} for a manifest"
            raise RequestFailed(unreachable(reply.host, reason, read_reason(reply.received)))
        if len(reply.received) > _MANIFEST_LIMIT:
            raise RequestFailed(not_an_image("its manifest is longer than 4 MiB"))
        return _verified(reply, reference)

    def digest(self, reference: ImageReference) -> str:
        """Return the digest that the tag names, asked by HEAD: Docker Hub counts only a GET as a pull."""
        repository, name = self.repository(reference.repository), reference.tag or "latest"
        request = Request("", "HEAD", {"Accept": ACCEPT})
        reply = self.session.ask(f"{repository}/manifests/{name}", up_to(1), repository, request)
        if reply.status == HTTPStatus.NOT_FOUND:
            raise ManifestMissing(manifest_missing(str(reference)))
        announced = _announced_digests(reply)
        if reply.status == HTTPStatus.OK and len(announced) == 1:
            return announced[0]
        return digest_of(self.manifest(reference.model_copy(update={"digest": None})))

    def identity(self, reference: ImageReference, platform: str) -> ImageIdentity:
        """Read from the manifests which image the reference names, by digest if it has one."""
        reply = self._fetch(reference)
        first = _parsed(reply)
        manifest = first if isinstance(first, ImageManifest) else self._child(reference, first, platform)
        return ImageIdentity(tag=digest_of(reply.received), manifest=manifest.digest, config=manifest.config.digest)

    def image(self, reference: ImageReference, platform: str, *, with_config: bool) -> ImageMetadata:
        """Return manifest and config. A fault is in the result and never raised."""
        image = self._image_manifest(reference, platform)
        if image.manifest is None or not with_config:
            return image
        try:
            return _with_config(image, self._config(reference, image.manifest), platform)
        except RequestFailed as failed:
            return replace(image, fault=failed.fault)

    def _image_manifest(self, reference: ImageReference, platform: str) -> ImageMetadata:
        try:
            first = _parsed(self._fetch(reference))
        except RequestFailed as failed:
            return ImageMetadata(reference, fault=failed.fault)
        if isinstance(first, ImageManifest):
            return ImageMetadata(reference, manifest=first)
        image = ImageMetadata(reference, first.platforms)
        try:
            return replace(image, manifest=self._child(reference, first, platform))
        except RequestFailed as failed:
            return replace(image, fault=failed.fault)

    def _child(self, reference: ImageReference, index: ImageIndex, platform: str) -> ImageManifest:
        """Return the manifest for the platform. An index may list another one: an image and its attestations."""
        for _ in range(_MAX_INDEXES):
            entry = choose(index, platform)
            if entry is None:
                raise RequestFailed(wrong_platform(platform, index.platforms))
            try:
                child = _parsed(self._fetch(reference.pinned(entry.digest)))
            except ManifestMissing:
                raise RequestFailed(platform_missing(entry.digest, platform)) from None
            if isinstance(child, ImageManifest):
                return child
            index = child
        raise RequestFailed(not_an_image(f"more than {_MAX_INDEXES} indexes within one another"))

    def _config(self, reference: ImageReference, manifest: ImageManifest) -> ImageConfig:
        blob, repository = manifest.config, self.repository(reference.repository)
        try:
            reply = self.session.ask(f"{repository}/blobs/{blob.digest}", up_to(_CONFIG_LIMIT + 1), repository)
        except BodyCutShort:
            raise RequestFailed(config_missing(blob.digest, blob.size)) from None
        is_empty = is_success(reply.status) and not reply.received
        if reply.status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE) or is_empty:
            raise RequestFailed(config_missing(blob.digest, blob.size))
        if not is_success(reply.status):
            reason = f"HTTP {reply.status} for a config"
            raise RequestFailed(unreachable(reply.host, reason, read_reason(reply.received)))
        if (got := digest_of(reply.received)) != blob.digest:
            raise RequestFailed(digest_mismatch("config", blob.digest, got, blob.size))
        try:
            return read_config(reply.received)
        except ValueError as error:
            raise RequestFailed(not_an_image(f"its config cannot be read: {error}")) from None


def _parsed(reply: Reply[bytes]) -> ImageIndex | ImageManifest:
    sent_as = re.split("[;,]", reply.headers.get("Content-Type", "")[:_MAX_LINK])[0].strip().lower()
    try:
        return read_manifest(reply.received, sent_as)
    except ValueError as error:
        raise RequestFailed(not_an_image(str(error))) from None


def _verified(reply: Reply[bytes], reference: ImageReference) -> Reply[bytes]:
    got, announced = digest_of(reply.received), _announced_digests(reply)
    wanted = reference.digest or (announced[0] if announced and got not in announced else got)
    if got != wanted:
        raise RequestFailed(digest_mismatch("manifest", wanted, got))
    return reply


def _announced_digests(reply: Reply[bytes]) -> tuple[str, ...]:
    """Return each different digest of the header. A proxy may add it again; some servers write it in upper case."""
    texts = reply.headers.get("Docker-Content-Digest", "")[:_MAX_LINK].lower().split(",")
    return tuple(dict.fromkeys(text.strip() for text in texts if _DIGEST.fullmatch(text.strip())))


def _with_config(image: ImageMetadata, config: ImageConfig, platform: str) -> ImageMetadata:
    """Add the config, with a fault if it is for another platform than listed: pytorch/pytorch#125094.

    Engines refuse an image whose config lists another number of layers. A config without that list is not judged.
    """
    layers = () if image.manifest is None else image.manifest.layers
    if config.diff_ids and len(config.diff_ids) != len(layers):
        reason = f"its config lists {len(config.diff_ids)} layers and its manifest {len(layers)}"
        return replace(image, config=config, fault=not_an_image(reason))
    built_for = config.platform
    if built_for is None:
        return replace(image, config=config)
    fault = None if same_platform(built_for, platform) else wrong_platform(platform, [built_for])
    return replace(image, config=config, platforms=image.platforms or (built_for,), fault=fault)


def _next_link(reply: Reply[bytes]) -> str | None:
    """Return the URL of the next page (RFC 8288); a relative link is relative to the page's URL.

    Raises RequestFailed where it is not one of http.
    """
    links = _LINK.finditer(reply.headers.get("Link", "")[:_MAX_LINK])
    given = next((link[1] for link in links if _IS_NEXT.search(link[2])), None)
    target = None if given is None else join_url(reply.url, given)
    if given is not None and target is None:
        raise RequestFailed(unreachable(reply.host, "its list of tags continues at something that is not http"))
    return target
