"""The lock of a lab: images by digest, and the places of people.

It does not depend on the day or the machine that wrote it.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from provisioner.domain.lab.environments import DEFAULT_ENVIRONMENT, OtherName
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.measured import Measured
from provisioner.domain.values.model import Document, Value
from provisioner.domain.values.reference import Digest, PinnedReference
from provisioner.domain.values.version import ComputeCapability, CudaVersion

_VERDICT_VARIABLES = ("PYTORCH_", "CUDA_VERSION", "NV_CUDNN", "CUDNN_", "NVIDIA_", "TORCH_CUDA_ARCH_LIST")

LOCK_SCHEMA: Literal["provisioner/lock/1"] = "provisioner/lock/1"


class _ShortDocument(Value):
    """A value that leaves the fields of `_LEFT_OUT` out of the lock where they have their defaults.

    So a lock that does not use them has the bytes that earlier releases gave it.
    """

    _LEFT_OUT: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _serialize(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        defaults = type(self).model_fields
        unset = {name for name in self._LEFT_OUT if getattr(self, name) == defaults[name].default}
        return {name: value for name, value in fields.items() if name not in unset}


UNBUILT = f"sha256:{'0' * 64}"  # in the place of a digest: the image is not built yet


class LockedImage(_ShortDocument):
    """One base image and the lab image built from it.

    `base` names the mirror's image by digest; `lab` is what the nodes pull. `inputs` is the hash of everything that the
    lab image was built from; a later build finds it by this. `rootfs` are the layers' own digests (diff IDs), in order,
    as an engine reports them after a pull. `bytes` is the size of a pull. `env` are the variables of the base image
    that a verdict reads, so that the selection can be repeated from the lock alone.

    `format`: of the files of its seats; those of an image that an earlier release has built stay as they were.
    `packages`: the version of each apt package that the build has installed for the environment. `requirements`: the
    SHA-256 of the requirements that its wheels were installed by. `measured`: what the base's torch was compiled for,
    as read when the lab image was built; None where it was not, as in an image of an earlier release.
    """

    _LEFT_OUT = frozenset({"format", "packages", "requirements", "measured"})

    reference: str  # with its tag, for readers
    base: PinnedReference
    lab: PinnedReference
    platform: str
    torch: str | None = None
    cuda: CudaVersion | None = None
    env: dict[str, str] = {}
    inputs: str = ""
    bytes: int = 0
    rootfs: tuple[Digest, ...] = ()
    format: Literal[1, 2] = 1
    packages: dict[str, str] = {}
    requirements: str = ""
    measured: Measured | None = None

    @property
    def is_built(self) -> bool:
        """Whether the registry has the lab image. No lock holds one that is not built, only what `--check` shows."""
        return not self.lab.endswith(UNBUILT)


class LockedNode(Value):
    """The image and GPUs of a node, and the capabilities it had; enough to check that the selection is unchanged."""

    image: str  # reference of one of the images
    gpus: tuple[str, ...]  # UUIDs
    capabilities: tuple[ComputeCapability, ...]


class Placement(_ShortDocument):
    """The place of a person: a node, and the UUIDs of their own cards, without shared ones.

    `uid` of their account; None: not known yet. `stopped`: why their seat is not to run, while they keep the place;
    empty: it may. It is left out of the document where it is empty.
    """

    _LEFT_OUT = frozenset({"stopped"})

    node: str
    uid: int | None = None
    gpus: tuple[str, ...] = ()
    stopped: str = ""


class LockedEnvironment(_ShortDocument):
    """An environment: its images in catalog order, and the image of each node that may run it.

    `torch`: the version that the selection has in common, if any. `unserved`: nodes that may run it, without an image.
    `kept_from`: the name that it had before an upgrade kept it under this one; empty for an environment of lab.yml.
    """

    _LEFT_OUT = frozenset({"kept_from"})

    torch: str | None = None
    images: tuple[LockedImage, ...] = ()
    nodes: dict[str, LockedNode] = {}
    unserved: tuple[str, ...] = ()
    kept_from: str = ""

    def tagged(self) -> tuple[TaggedImage, ...]:
        """Return the locked images as input of the selection: complete, since the lab's own registry has them."""
        return tuple(
            TaggedImage(reference=i.reference, digest=i.base.rpartition("@")[2], env=i.env, platforms=(i.platform,))
            for i in self.images
        )

    def image(self, reference: str) -> LockedImage | None:
        """Return the locked image with this reference, None if there is none."""
        return next((image for image in self.images if image.reference == reference), None)

    def image_of(self, node: str) -> LockedImage | None:
        """Return the image of a node, None if the lock has none for it."""
        locked = self.nodes.get(node)
        return None if locked is None else self.image(locked.image)


class Lockfile(Document):
    """The contents of lab.lock. It contains no secret.

    `images` are in catalog order. `data_version` is the version of the compatibility data. `unserved` are the nodes
    without an image, until the next lock. `registry_ca` is the public CA certificate (PEM) of the lab's own registry.
    `torch`, `images`, `nodes` and `unserved` are of the environment `default`, and `environments` has the others;
    `people`: the place of each person of the roster, by id. Both are left out of the document where there are none.
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
    environments: dict[OtherName, LockedEnvironment] = {}
    people: dict[str, Placement] = {}

    @model_serializer(mode="wrap")
    def _serialize(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        return {name: fields[name] for name in fields if name not in {"environments", "people"} or fields[name]}

    @property
    def default(self) -> LockedEnvironment:
        """The environment `default`."""
        return LockedEnvironment(torch=self.torch, images=self.images, nodes=self.nodes, unserved=self.unserved)

    @property
    def all_environments(self) -> dict[str, LockedEnvironment]:
        """Every environment by name, `default` first."""
        return {DEFAULT_ENVIRONMENT: self.default, **self.environments}

    @property
    def all_images(self) -> tuple[LockedImage, ...]:
        """The images of every environment."""
        return tuple(image for environment in self.all_environments.values() for image in environment.images)

    def without_people(self) -> "Lockfile":
        """Return the lock as others may have it: without who sits where."""
        return self.model_copy(update={"people": {}})


def verdict_variables(env: dict[str, str]) -> dict[str, str]:
    """Return the variables of an image that a verdict reads, sorted by name."""
    return {name: env[name] for name in sorted(env) if name.startswith(_VERDICT_VARIABLES)}
