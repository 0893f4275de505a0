"""Manifests, indexes and configs of images as registries serve them, in OCI's and in Docker's media types.

A pull for one platform needs the manifest of that platform, its config and its layers. Other platforms and
attestations (`unknown/unknown`) are not needed: a mirror that copied only one platform has the image complete.
"""

import hashlib
import re
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from provisioner.domain.registry.go_json import GoStruct, Time, WholeNumber, has_field, read_object
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
    "application/json",
    "",
)
# Engines unpack no layer of another type. Of a type that is absent or too general they look at the content.
_LAYER_TYPE = re.compile(
    r"application/vnd\.(oci\.image\.layer\.|docker\.image\.rootfs\.|docker\.container\.image\.rootfs\.).+"
    r"|application/octet-stream|"
)
_FOREIGN = re.compile(r"\.foreign\.|\.nondistributable\.")
_SIGNATURE_TAG = re.compile(r"sha256-[0-9a-f]{64}(\.\w+)?")  # cosign's and the referrers API's fallback tags
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)

# An engine refuses images of more than 127 layers; an index has an entry for each platform and its attestation.
_MAX_PARTS = 1000
_MAX_VARIABLE = 1 << 15  # characters; an engine cannot start a container with a longer one
_MAX_COMMAND = 1 << 15
_MAX_SHOWN = 100  # characters of a media type in a message
_FEW = Field(max_length=10_000)

Size = Annotated[int, Field(strict=True, ge=0, le=1 << 53)]


# Variants that every machine of an architecture has, and other names of architectures (containerd's platforms package).
_PLAIN_VARIANTS = {("amd64", "v1"), ("arm64", "v8")}
_ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}


class Platform(GoStruct):
    """An OCI platform: its text is os/architecture[/variant], without a variant that every such machine has."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        """Return os/architecture[/variant]."""
        architecture = _ARCHITECTURES.get(self.architecture.lower(), self.architecture.lower())
        variant = "" if (architecture, self.variant) in _PLAIN_VARIANTS else self.variant
        return "/".join(part for part in (self.os, architecture, variant) if part)


class Blob(GoStruct):
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


class _Document(GoStruct):
    """What an index and a manifest have in common."""

    schema_version: WholeNumber = Field(default=0, alias="schemaVersion")
    media_type: str = Field(default="", alias="mediaType")
    annotations: dict[str, str | None] = {}


class ImageIndex(_Document):
    """An OCI image index or a Docker manifest list."""

    manifests: Annotated[tuple[IndexEntry, ...], Field(max_length=_MAX_PARTS)]

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms of its images; attestations are left out."""
        return tuple(str(e.platform) for e in self.manifests if e.platform is not None and not e.attestation)


class _Manifest(_Document):
    config: Blob
    layers: Annotated[tuple[Blob, ...], Field(max_length=_MAX_PARTS)]


class ImageManifest(Value):
    """An image manifest. `digest` is the digest of its own bytes."""

    digest: Digest
    config: Blob
    layers: tuple[Blob, ...]

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


def read_manifest(body: bytes, sent_as: str = "") -> ImageIndex | ImageManifest:
    """Parse an index or an image manifest. Raises ValueError, with a readable reason, if `body` is neither.

    `sent_as`: the media type of the reply, by which engines choose how to read it; not checked where there is none.
    """
    document = read_object(body)
    is_index = has_field(document, "manifests")
    if is_index and has_field(document, "layers"):  # CVE-2021-41190: readers would differ on which it is
        raise ValueError("both an index and a manifest")
    if not is_index and not has_field(document, "layers"):
        raise ValueError("neither an index nor a manifest of schema 2")
    try:
        read = (ImageIndex if is_index else _Manifest).model_validate(document)
    except ValidationError as error:
        raise ValueError(_first_mistake(error)) from None
    _check_types(read.media_type, sent_as, INDEX_TYPES if is_index else MANIFEST_TYPES)
    return read if isinstance(read, ImageIndex) else _image_manifest(read, digest_of(body))


def _check_types(named: str, sent_as: str, allowed: tuple[str, ...]) -> None:
    """OCI's documents need not name their type, Docker's must (distribution's manifest packages)."""
    if named not in ("", *allowed):
        raise ValueError(f"it calls itself {named[:_MAX_SHOWN]}")
    if sent_as not in ("", *allowed):
        raise ValueError(f"it is sent as {sent_as[:_MAX_SHOWN]}, which engines refuse")
    if sent_as and sent_as != named and (named or sent_as.startswith("application/vnd.docker.")):
        raise ValueError(f"it is sent as {sent_as} and calls itself {named or 'nothing'}")


def _first_mistake(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _image_manifest(read: _Manifest, digest: str) -> ImageManifest:
    if read.config.media_type not in _CONFIG_TYPES:
        raise ValueError(f"its config has the media type {read.config.media_type[:_MAX_SHOWN]}")
    odd = next((layer.media_type for layer in read.layers if _LAYER_TYPE.fullmatch(layer.media_type) is None), None)
    if odd is not None:
        raise ValueError(f"a layer has the media type {odd[:_MAX_SHOWN]}")
    return ImageManifest(digest=digest, config=read.config, layers=read.layers)


def choose(index: ImageIndex, platform: str) -> IndexEntry | None:
    """Return the manifest for `platform` (os/architecture[/variant]), without a variant if none was requested.

    Falls back to a manifest without a platform, whose config names it; None if there is none either.
    """
    os, architecture, variant = (*platform.split("/"), "", "")[:3]
    wanted = Platform(os=os, architecture=architecture, variant=variant)
    named = [(str(entry.platform), entry) for entry in index.manifests if entry.platform is not None]
    for text in (str(wanted), f"{os}/{architecture}"):
        if (entry := next((entry for name, entry in named if name == text), None)) is not None:
            return entry
    return next((entry for entry in index.manifests if entry.platform is None), None)


def same_platform(offered: str, platform: str) -> bool:
    """Whether a node of `platform` runs an image built for `offered`. Variants count only if both have one."""
    return all(ours == theirs for ours, theirs in zip(offered.split("/"), platform.split("/"), strict=False))


class _ConfigFields(GoStruct):
    """`user` and so on are not used: an engine refuses an image in which one of them has another type."""

    env: Annotated[tuple[Annotated[str, Field(max_length=_MAX_VARIABLE)] | None, ...], _FEW] = Field((), alias="Env")
    labels: Annotated[dict[str, str | None], _FEW] = Field({}, alias="Labels")
    volumes: Annotated[dict[str, Any], _FEW] = Field({}, alias="Volumes")
    user: str = Field("", alias="User")
    folder: str = Field("", alias="WorkingDir")
    ports: dict[str, Any] = Field({}, alias="ExposedPorts")
    command: tuple[str | None, ...] = Field((), alias="Cmd")
    entrypoint: tuple[str | None, ...] = Field((), alias="Entrypoint")


class _HistoryEntry(GoStruct):
    created: Time | None = None
    created_by: str = ""


class _RootFs(GoStruct):
    diff_ids: Annotated[tuple[Digest, ...], _FEW] = ()


class _Config(Platform):
    created: Time | None = None
    os_features: tuple[str | None, ...] = Field((), alias="os.features")
    config: _ConfigFields = _ConfigFields()
    history: Annotated[tuple[_HistoryEntry | None, ...], _FEW] = ()
    rootfs: _RootFs = _RootFs()


def read_config(body: bytes) -> ImageConfig:
    """Parse an image config. Raises ValueError, with a readable reason, if `body` is not one."""
    try:
        read = _Config.model_validate(read_object(body))
    except ValidationError as error:
        raise ValueError(_first_mistake(error)) from None
    fields = read.config
    return ImageConfig(
        env=dict((line or "").partition("=")[::2] for line in fields.env),
        labels={name: value or "" for name, value in fields.labels.items()},
        volumes=tuple(sorted(fields.volumes)),
        history=tuple(entry.created_by[:_MAX_COMMAND] if entry else "" for entry in read.history),
        platform=str(read) if read.os else None,
        diff_ids=read.rootfs.diff_ids,
        digest=digest_of(body),
    )
