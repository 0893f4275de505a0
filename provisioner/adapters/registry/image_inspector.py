"""What single images are: whether a tag exists, and which digest and which image it names."""

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from pydantic import TypeAdapter

from provisioner.adapters.registry.connection import RegistryConnection
from provisioner.adapters.registry.http import RequestFailed
from provisioner.adapters.registry.reader import ManifestMissing
from provisioner.adapters.state.json_cache import JsonCache
from provisioner.domain.registry.manifest import digest_of
from provisioner.domain.values.image_identity import ImageIdentity
from provisioner.domain.values.problem import ProblemError
from provisioner.domain.values.reference import ImageReference

T = TypeVar("T")

# The image that a digest names never changes, and Docker Hub counts each manifest that is read.
_IDENTITIES = JsonCache("identities.json", TypeAdapter(dict[str, ImageIdentity]), limit=1 << 20)
_MAX_IDENTITIES = 1000


class ImageInspector(RegistryConnection):
    """Reads manifests, no layers.

    Each method returns None where the registry answers that it has no such image, and raises ProblemError where it
    gives no answer.
    """

    def exists(self, reference: ImageReference) -> str | None:
        """Return the digest of the manifest or index."""
        return _unless_missing(lambda: digest_of(self._reader.manifest(reference)))

    def digest(self, reference: ImageReference) -> str | None:
        """Return the digest that the tag names now, asked by HEAD."""
        return _unless_missing(lambda: self._reader.digest(reference))

    def identity(self, reference: ImageReference, platform: str) -> ImageIdentity | None:
        """Return which image the reference names. The answer for a digest is cached on disk."""
        if reference.digest is not None and (cached := _read_identity(reference.digest, platform)) is not None:
            return cached
        identity = _unless_missing(lambda: self._reader.identity(reference, platform))
        if identity is not None:
            _save_identity(identity, platform)
        return identity


def _unless_missing(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except ManifestMissing:
        return None
    except RequestFailed as failed:
        raise ProblemError(failed.fault.problem) from None


def _read_identity(digest: str, platform: str) -> ImageIdentity | None:
    return (_IDENTITIES.read() or {}).get(f"{digest} {platform}")


def _save_identity(identity: ImageIdentity, platform: str) -> None:
    """Add it as the newest; the oldest are dropped. A cache that cannot be written is no fault."""
    saved, key = _IDENTITIES.read() or {}, f"{identity.tag} {platform}"
    saved.pop(key, None)
    with suppress(ProblemError):
        _IDENTITIES.write(dict([*saved.items(), (key, identity)][-_MAX_IDENTITIES:]))
