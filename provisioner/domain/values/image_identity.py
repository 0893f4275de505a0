"""What a tag means on one registry, and whether two registries mean the same image by it."""

from provisioner.domain.values.model import Value
from provisioner.domain.values.reference import Digest


class Identity(Value):
    """For one platform. `tag` is the digest of what the tag names, which may be an index; `manifest` that of the
    platform's own; `config` is the image's ID, which stays when an engine pulls the image and pushes it elsewhere.
    """

    tag: Digest
    manifest: Digest
    config: Digest


def same_image(here: Identity, there: Identity) -> bool:
    """A mirror may hold one platform of an index alone, or layers that an engine has compressed anew."""
    return here.manifest == there.manifest or here.config == there.config
