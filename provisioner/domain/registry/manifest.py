"""Manifests, indexes and configs of images as registries serve them, in OCI's and in Docker's media types.

What a pull for one platform needs is the manifest of that platform, its config and its layers; other platforms and
attestations (`unknown/unknown`) are not needed, so a mirror that copied only one platform has the image all the same.
"""

import hashlib
import re
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from provisioner.domain.values.image import ImageConfig
from provisioner.domain.values.model import Value
from provisioner.domain.values.reference import Digest

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
# One header line: a registry that is not offered the newer types converts to the long dead schema 1.
ACCEPT = ", ".join(INDEX_TYPES + MANIFEST_TYPES)
_CONFIG_TYPES = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/octet-stream",  # what Docker 1.10 pushed
)
_FOREIGN = re.compile(r"\.foreign\.|\.nondistributable\.")
_SIGNATURE_TAG = re.compile(r"sha256-[0-9a-f]{64}(\.\w+)?")  # cosign's and the referrers API's fallback tags
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)

Size = Annotated[int, Field(ge=0)]


class Platform(Value):
    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        variant = "" if (self.architecture, self.variant) == ("arm64", "v8") else self.variant  # there is no other
        return "/".join(part for part in (self.os, self.architecture, variant) if part)


class Blob(Value):
    """A config or a layer. `size` in bytes, as stored (compressed)."""

    media_type: str = Field(default="", alias="mediaType")
    digest: Digest
    size: Size
    urls: tuple[str, ...] = ()

    @property
    def foreign(self) -> bool:
        """A layer that engines fetch from elsewhere (Windows base layers), so that a registry need not have it."""
        return bool(self.urls) and _FOREIGN.search(self.media_type) is not None


class IndexEntry(Blob):
    platform: Platform | None = None

    @property
    def attestation(self) -> bool:
        return self.platform is not None and self.platform.os == "unknown"


class ImageIndex(Value):
    manifests: tuple[IndexEntry, ...]

    @property
    def platforms(self) -> tuple[str, ...]:
        return tuple(str(e.platform) for e in self.manifests if e.platform is not None and not e.attestation)


class ImageManifest(Value):
    """`digest` is that of the manifest's own bytes."""

    digest: Digest
    config: Blob
    layers: tuple[Blob, ...]

    @property
    def own_layers(self) -> tuple[Blob, ...]:
        """Layers that the registry must have, each once: images repeat the empty layer."""
        return tuple(dict.fromkeys(layer for layer in self.layers if not layer.foreign))

    @property
    def parts(self) -> tuple[Blob, ...]:
        return (self.config, *self.own_layers)

    @property
    def size(self) -> int:
        return sum({blob.digest: blob.size for blob in self.parts}.values())


def digest_of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def is_image_tag(text: str) -> bool:
    """False for signatures and attestations stored under a tag, and for what is no tag at all."""
    return _TAG.fullmatch(text) is not None and _SIGNATURE_TAG.fullmatch(text) is None


def read_tags(body: bytes) -> tuple[str, ...]:
    """The image tags of a tags list, in its order. Raises ValueError where `body` is none."""
    tags: list[str] | None = TypeAdapter(dict[str, Any]).validate_json(body).get("tags", [])
    return tuple(filter(is_image_tag, TypeAdapter(list[str]).validate_python(tags or [])))


def read_manifest(body: bytes) -> ImageIndex | ImageManifest:
    """Raises ValueError, with a reason for people, where `body` is neither an index nor an image's manifest."""
    try:
        document: dict[str, Any] = TypeAdapter(dict[str, Any]).validate_json(body)
        if "manifests" in document and "layers" in document:  # CVE-2021-41190: readers would differ on which it is
            raise ValueError("both an index and a manifest")
        if "manifests" in document:
            return ImageIndex.model_validate(document)
        if "layers" not in document:
            raise ValueError("neither an index nor a manifest of schema 2")
        manifest = ImageManifest.model_validate(document | {"digest": digest_of(body)})
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg']}") from None
    if manifest.config.media_type not in _CONFIG_TYPES:
        raise ValueError(f"its config is of the kind {manifest.config.media_type or 'none'}")
    return manifest


def choose(index: ImageIndex, platform: str) -> IndexEntry | None:
    """The manifest for `platform` (os/architecture[/variant]); one without a variant where none was asked for.

    Where none is listed for it, one that names no platform: its config then tells.
    """
    os, architecture, variant = (*platform.split("/"), "", "")[:3]
    fitting = [
        entry
        for entry in index.manifests
        if entry.platform is not None
        and (entry.platform.os, entry.platform.architecture) == (os, architecture)
        and (not variant or entry.platform.variant in ("", variant))
    ]
    unnamed = next((entry for entry in index.manifests if entry.platform is None), None)
    return min(fitting, key=lambda entry: (entry.platform or Platform()).variant != variant, default=unnamed)


def same_platform(offered: str, platform: str) -> bool:
    """Whether a node of `platform` runs what was built for `offered`; variants count only where both have one."""
    return all(ours == theirs for ours, theirs in zip(offered.split("/"), platform.split("/"), strict=False))


class _Inner(Value):
    env: tuple[str, ...] | None = Field(default=None, alias="Env")
    labels: dict[str, str] | None = Field(default=None, alias="Labels")


class _Step(Value):
    created_by: str = ""


class _RootFs(Value):
    diff_ids: tuple[Digest, ...] | None = None


class _Config(Platform):
    config: _Inner | None = None
    history: tuple[_Step, ...] | None = None
    rootfs: _RootFs | None = None


def read_config(body: bytes) -> ImageConfig:
    """Raises ValueError where `body` is no image config."""
    read = _Config.model_validate_json(body)
    inner, rootfs = read.config or _Inner(), read.rootfs or _RootFs()
    return ImageConfig(
        env=dict(entry.partition("=")[::2] for entry in inner.env or ()),
        labels=inner.labels or {},
        history=tuple(step.created_by for step in read.history or ()),
        platform=str(read) if read.os else None,
        diff_ids=rootfs.diff_ids or (),
    )
