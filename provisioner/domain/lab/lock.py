"""What a lab is held to: images by digest, and nothing that depends on the day or the machine it was written on."""

from typing import Literal

from pydantic import Field

from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.model import Document, Value
from provisioner.domain.values.reference import Digest
from provisioner.domain.values.version import ComputeCapability, CudaVersion

_TELLING = ("PYTORCH_", "CUDA_VERSION", "NV_CUDNN", "CUDNN_", "NVIDIA_", "TORCH_CUDA_ARCH_LIST")

LOCK_SCHEMA: Literal["provisioner/lock/1"] = "provisioner/lock/1"


class LockedImage(Value):
    """One base image and the lab image made of it.

    `base` names the mirror's image by digest; `lab` is what the nodes pull. `inputs` is the hash of all that the lab
    image was built from, by which it is found again. `rootfs` are the layers' own digests (diff IDs), in order, as an
    engine reports them once the image is there. `bytes` is what a pull transfers. `env` are the variables of the base
    that a verdict reads, so that the choice can be made again from the lock alone.
    """

    reference: str  # with its tag, for people
    base: str  # registry/repository@digest
    lab: str  # registry/repository@digest
    platform: str
    torch: str | None = None
    cuda: CudaVersion | None = None
    env: dict[str, str] = {}
    inputs: str = ""
    bytes: int = 0
    rootfs: tuple[Digest, ...] = ()


class LockedNode(Value):
    """What a node was given, and what it was then: enough to see that the choice would be made again."""

    image: str  # reference of one of the images
    gpus: tuple[str, ...]  # UUIDs
    capabilities: tuple[ComputeCapability, ...]


class Lockfile(Document):
    """`images` in catalog order. It names no secret. `data_version` is the date of the compatibility data.

    `unserved` are the nodes that no image was found for; they stay so until the lock is made again.
    `registry_ca` is the public certificate (PEM) that the lab's own registry is trusted by.
    """

    schema_: Literal["provisioner/lock/1"] = Field(default=LOCK_SCHEMA, alias="schema")
    lab: str
    mirror: str
    registry_ca: str | None = None
    data_version: str
    torch: str | None = None
    images: tuple[LockedImage, ...] = ()
    nodes: dict[str, LockedNode] = {}
    unserved: tuple[str, ...] = ()

    def tagged(self) -> tuple[TaggedImage, ...]:
        """The locked images as the selection reads them: complete, since the lab's own registry holds them."""
        return tuple(TaggedImage(reference=i.reference, env=i.env, platforms=(i.platform,)) for i in self.images)

    def image(self, reference: str) -> LockedImage | None:
        return next((image for image in self.images if image.reference == reference), None)

    def image_of(self, node: str) -> LockedImage | None:
        held = self.nodes.get(node)
        return None if held is None else self.image(held.image)


def telling(env: dict[str, str]) -> dict[str, str]:
    """The variables of an image that a verdict reads, in the order of their names."""
    return {name: env[name] for name in sorted(env) if name.startswith(_TELLING)}
