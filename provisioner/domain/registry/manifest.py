"""Manifests, indexes and configs of images as registries serve them, in OCI's and in Docker's media types.

A pull for one platform needs the manifest of that platform, its config and its layers. Other platforms and
attestations (`unknown/unknown`) are not needed: a mirror that copied only one platform has the image complete.
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
# One header line: without the newer types a registry converts manifests to the obsolete schema 1.
ACCEPT = ", ".join(INDEX_TYPES + MANIFEST_TYPES)
_CONFIG_TYPES = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/octet-stream",  # pushed by Docker 1.10
)
_FOREIGN = re.compile(r"\.foreign\.|\.nondistributable\.")
_SIGNATURE_TAG = re.compile(r"sha256-[0-9a-f]{64}(\.\w+)?")  # cosign's and the referrers API's fallback tags
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)

# An engine refuses images of more than 127 layers; an index has an entry for each platform and its attestation.
_MAX_PARTS = 1000
_MAX_VARIABLE = 1 << 15  # characters; an engine cannot start a container with a longer one
_MAX_COMMAND = 1 << 15
_MAX_ENTRIES = 10_000

Size = Annotated[int, Field(ge=0, le=1 << 53)]


class Platform(Value):
    """An OCI platform: its text is os/architecture[/variant], without the variant v8 of arm64."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        """Return os/architecture[/variant]."""
        variant = "" if (self.architecture, self.variant) == ("arm64", "v8") else self.variant  # its only variant
        return "/".join(part for part in (self.os, self.architecture, variant) if part)


class Blob(Value):
    """A config or a layer. `size` in bytes, as stored (compressed)."""

    media_type: str = Field(default="", alias="mediaType")
    digest: Digest
    size: Size
    urls: tuple[str, ...] = ()

    @property
    def foreign(self) -> bool:
        """Whether engines fetch the layer from `urls` (Windows base layers), so that a registry need not have it."""
        return bool(self.urls) and _FOREIGN.search(self.media_type) is not None


class IndexEntry(Blob):
    """A manifest that an index lists. `platform` None: the index does not name one."""

    platform: Platform | None = None

    @property
    def attestation(self) -> bool:
        """Whether it is an attestation (BuildKit: platform unknown/unknown) and not an image."""
        return self.platform is not None and self.platform.os == "unknown"


class ImageIndex(Value):
    """An OCI image index or a Docker manifest list."""

    manifests: Annotated[tuple[IndexEntry, ...], Field(max_length=_MAX_PARTS)]

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms of its images; attestations are left out."""
        return tuple(str(e.platform) for e in self.manifests if e.platform is not None and not e.attestation)


class ImageManifest(Value):
    """An image manifest. `digest` is the digest of its own bytes."""

    digest: Digest
    config: Blob
    layers: Annotated[tuple[Blob, ...], Field(max_length=_MAX_PARTS)]

    @property
    def own_layers(self) -> tuple[Blob, ...]:
        """Layers that the registry must have, without repetitions: images repeat the empty layer."""
        return tuple(dict.fromkeys(layer for layer in self.layers if not layer.foreign))

    @property
    def parts(self) -> tuple[Blob, ...]:
        """All blobs that the registry must have: the config first, then the layers."""
        return (self.config, *self.own_layers)

    @property
    def size(self) -> int:
        """Compressed bytes of config and layers, each blob counted once."""
        return sum({blob.digest: blob.size for blob in self.parts}.values())


def digest_of(body: bytes) -> str:
    """Return the SHA-256 digest of `body` as sha256:HEX."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def is_image_tag(text: str) -> bool:
    """Whether `text` is a valid tag and not one under which a signature or an attestation is stored."""
    return _TAG.fullmatch(text) is not None and _SIGNATURE_TAG.fullmatch(text) is None


def read_tags(body: bytes) -> tuple[str, ...]:
    """Return the image tags of a tags list, in its order. Raises ValueError if `body` is not a tags list."""
    tags: list[str] | None = TypeAdapter(dict[str, Any]).validate_json(body).get("tags", [])
    return tuple(filter(is_image_tag, TypeAdapter(list[str]).validate_python(tags or [])))


def read_manifest(body: bytes) -> ImageIndex | ImageManifest:
    """Parse an index or an image manifest. Raises ValueError, with a readable reason, if `body` is neither."""
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
        raise ValueError(f"its config has the media type {manifest.config.media_type or 'none'}")
    return manifest


def choose(index: ImageIndex, platform: str) -> IndexEntry | None:
    """Return the manifest for `platform` (os/architecture[/variant]), without a variant if none was requested.

    Falls back to a manifest without a platform, whose config names it; None if there is none either.
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
    """Whether a node of `platform` runs an image built for `offered`. Variants count only if both have one."""
    return all(ours == theirs for ours, theirs in zip(offered.split("/"), platform.split("/"), strict=False))


class _ConfigFields(Value):
    env: tuple[Annotated[str, Field(max_length=_MAX_VARIABLE)], ...] | None = Field(
        default=None, alias="Env", max_length=_MAX_ENTRIES
    )
    labels: dict[str, str] | None = Field(default=None, alias="Labels", max_length=_MAX_ENTRIES)
    volumes: dict[str, Any] | None = Field(default=None, alias="Volumes", max_length=_MAX_ENTRIES)


class _HistoryEntry(Value):
    created_by: str = ""


class _RootFs(Value):
    diff_ids: tuple[Digest, ...] | None = Field(default=None, max_length=_MAX_ENTRIES)


class _Config(Platform):
    config: _ConfigFields | None = None
    history: tuple[_HistoryEntry, ...] | None = Field(default=None, max_length=_MAX_ENTRIES)
    rootfs: _RootFs | None = None


def read_config(body: bytes) -> ImageConfig:
    """Parse an image config. Raises ValueError if `body` is not one."""
    read = _Config.model_validate_json(body)
    fields, rootfs = read.config or _ConfigFields(), read.rootfs or _RootFs()
    return ImageConfig(
        env=dict(line.partition("=")[::2] for line in fields.env or ()),
        labels=fields.labels or {},
        volumes=tuple(sorted(fields.volumes or ())),
        history=tuple(entry.created_by[:_MAX_COMMAND] for entry in read.history or ()),
        platform=str(read) if read.os else None,
        diff_ids=rootfs.diff_ids or (),
        digest=digest_of(body),
    )
