"""The digests behind a tag on one registry, and whether two registries have the same image under it."""

from provisioner.domain.values.model import Value
from provisioner.domain.values.reference import Digest


class ImageIdentity(Value):
    """The digests of an image for one platform.

    `tag` is the digest of what the tag names, which may be an index; `manifest` that of the platform's own manifest;
    `config` is the image's ID, which does not change when an engine pulls the image and pushes it elsewhere.
    """

    tag: Digest
    manifest: Digest
    config: Digest


def is_same_image(here: ImageIdentity, there: ImageIdentity) -> bool:
    """Return whether manifest or config agree.

    The tag's own digest may differ: a mirror may have one platform of an index only. The manifest may differ, too: an
    engine may have compressed the layers again.
    """
    return here.manifest == there.manifest or here.config == there.config
