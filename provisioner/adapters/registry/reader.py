"""Reading what is small on a registry: lists of tags, manifests, configs. Every byte is held against its digest."""

import re
from dataclasses import dataclass, replace
from http import HTTPStatus
from urllib.parse import urljoin

from provisioner.adapters.registry.http import BodyCutShort, Refused, Reply, Request, up_to
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
from provisioner.domain.values.image_identity import Identity
from provisioner.domain.values.reference import ImageReference

_MANIFEST_LIMIT = 4 << 20  # the specification's own
_CONFIG_LIMIT = 8 << 20
_TAGS_LIMIT = 32 << 20
_PAGES = 10_000
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NEXT = re.compile(r'<([^>]*)>\s*;[^,<]*\brel="?next\b')


class ManifestMissing(Refused):
    """The registry answered, and does not have it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of one image without its layers. `fault`: why the rest is None."""

    reference: ImageReference
    platforms: tuple[str, ...] | None = None
    manifest: ImageManifest | None = None
    config: ImageConfig | None = None
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Reader:
    """Raises Refused, except `image`. `address` is how people name the registry."""

    session: Session
    address: str

    def repository(self, name: str) -> str:
        """As the registry calls it: Docker Hub keeps its one-part names under library/."""
        return f"library/{name}" if api_host(self.address) != self.address and "/" not in name else name

    def tags(self, name: str) -> tuple[str, ...]:
        """All tags of images, in the registry's order. Pages are followed by their links, never counted."""
        path, tags, pages = f"{self.repository(name)}/tags/list", dict[str, None](), set[str]()
        while path not in pages and len(pages) < _PAGES:
            pages.add(path)
            reply = self.session.ask(path, up_to(_TAGS_LIMIT), self.repository(name))
            tags |= dict.fromkeys(self._page(name, reply))
            following = _next_link(reply)
            if following is None:
                return tuple(tags)
            path = following
        raise Refused(unreachable(self.address, "its list of tags has no end"))

    def _page(self, name: str, reply: Reply[bytes]) -> tuple[str, ...]:
        if reply.status == HTTPStatus.NOT_FOUND:
            raise Refused(repository_missing(name))
        if reply.status != HTTPStatus.OK:
            raise Refused(unreachable(reply.host, f"HTTP {reply.status} for the list of tags"))
        try:
            return read_tags(reply.received)
        except ValueError:
            raise Refused(unreachable(reply.host, "its list of tags cannot be read")) from None

    def manifest(self, reference: ImageReference) -> bytes:
        """By digest where the reference has one, else by tag."""
        name = reference.digest or reference.tag or "latest"
        repository = self.repository(reference.repository)
        request = Request("", headers={"Accept": ACCEPT})
        reply = self.session.ask(f"{repository}/manifests/{name}", up_to(_MANIFEST_LIMIT + 1), repository, request)
        if reply.status == HTTPStatus.NOT_FOUND:
            raise ManifestMissing(manifest_missing(str(reference)))
        if reply.status != HTTPStatus.OK:
            raise Refused(unreachable(reply.host, f"HTTP {reply.status} for a manifest"))
        if len(reply.received) > _MANIFEST_LIMIT:
            raise Refused(not_an_image("its manifest is longer than 4 MiB"))
        return _verified(reply, reference)

    def digest(self, reference: ImageReference) -> str:
        """Of what the tag names, asked by HEAD: Docker Hub counts only a GET as a pull."""
        repository, name = self.repository(reference.repository), reference.tag or "latest"
        request = Request("", "HEAD", {"Accept": ACCEPT})
        reply = self.session.ask(f"{repository}/manifests/{name}", up_to(1), repository, request)
        if reply.status == HTTPStatus.NOT_FOUND:
            raise ManifestMissing(manifest_missing(str(reference)))
        announced = reply.headers.get("Docker-Content-Digest", "")
        if reply.status == HTTPStatus.OK and _DIGEST.fullmatch(announced):
            return announced
        return digest_of(self.manifest(reference.model_copy(update={"digest": None})))

    def identity(self, reference: ImageReference, platform: str) -> Identity:
        """Read from the manifests themselves; by digest where the reference has one."""
        body = self.manifest(reference)
        first = _parsed(body)
        manifest = first if isinstance(first, ImageManifest) else self._child(reference, first, platform)
        return Identity(tag=digest_of(body), manifest=manifest.digest, config=manifest.config.digest)

    def image(self, reference: ImageReference, platform: str, *, with_config: bool) -> Seen:
        """Never raises for a fault of the image: that stands in the answer."""
        seen = self._image_manifest(reference, platform)
        if seen.manifest is None or not with_config:
            return seen
        try:
            return _configured(seen, self._config(reference, seen.manifest), platform)
        except Refused as refused:
            return replace(seen, fault=refused.fault)

    def _image_manifest(self, reference: ImageReference, platform: str) -> Seen:
        try:
            first = _parsed(self.manifest(reference))
        except Refused as refused:
            return Seen(reference, fault=refused.fault)
        if isinstance(first, ImageManifest):
            return Seen(reference, manifest=first)
        seen = Seen(reference, first.platforms)
        try:
            return replace(seen, manifest=self._child(reference, first, platform))
        except Refused as refused:
            return replace(seen, fault=refused.fault)

    def _child(self, reference: ImageReference, index: ImageIndex, platform: str) -> ImageManifest:
        entry = choose(index, platform)
        if entry is None:
            raise Refused(wrong_platform(platform, index.platforms))
        try:
            child = _parsed(self.manifest(reference.pinned(entry.digest)))
        except ManifestMissing:
            raise Refused(platform_missing(entry.digest, platform)) from None
        if isinstance(child, ImageIndex):
            raise Refused(not_an_image("an index within an index"))
        return child

    def _config(self, reference: ImageReference, manifest: ImageManifest) -> ImageConfig:
        blob, repository = manifest.config, self.repository(reference.repository)
        try:
            reply = self.session.ask(f"{repository}/blobs/{blob.digest}", up_to(_CONFIG_LIMIT + 1), repository)
        except BodyCutShort:
            raise Refused(config_missing(blob.digest, blob.size)) from None
        if reply.status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE) or not reply.received:
            raise Refused(config_missing(blob.digest, blob.size))
        if reply.status != HTTPStatus.OK:
            raise Refused(unreachable(reply.host, f"HTTP {reply.status} for a config"))
        if (got := digest_of(reply.received)) != blob.digest:
            raise Refused(digest_mismatch("config", blob.digest, got, blob.size))
        try:
            return read_config(reply.received)
        except ValueError:
            raise Refused(not_an_image("its config cannot be read")) from None


def _parsed(body: bytes) -> ImageIndex | ImageManifest:
    try:
        return read_manifest(body)
    except ValueError as error:
        raise Refused(not_an_image(str(error))) from None


def _verified(reply: Reply[bytes], reference: ImageReference) -> bytes:
    got = digest_of(reply.received)
    announced = reply.headers.get("Docker-Content-Digest", "")
    wanted = reference.digest or (announced if announced.startswith("sha256:") else got)
    if got != wanted:
        raise Refused(digest_mismatch("manifest", wanted, got))
    return reply.received


def _configured(seen: Seen, config: ImageConfig, platform: str) -> Seen:
    """A config that was built for another platform than it is listed for: pytorch/pytorch#125094."""
    built_for = config.platform
    if built_for is None:
        return replace(seen, config=config)
    fault = None if same_platform(built_for, platform) else wrong_platform(platform, [built_for])
    return replace(seen, config=config, platforms=seen.platforms or (built_for,), fault=fault)


def _next_link(reply: Reply[bytes]) -> str | None:
    """RFC 8288; a relative link counts from where the page came from."""
    match = _NEXT.search(reply.headers.get("Link", ""))
    return None if match is None else urljoin(reply.url, match[1])
