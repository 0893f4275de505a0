"""What an image is, from its own config where that speaks and from its tag where it does not."""

from typing import Literal

from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.reference import Digest
from provisioner.domain.values.sync import SyncState
from provisioner.domain.values.version import CudaVersion, DottedVersion

Flavour = Literal["runtime", "devel"]
Family = Literal["wheel", "ngc"]  # a published wheel of torch, or NVIDIA's own build of it


def base_platform(platform: str) -> str:
    """Without a variant: linux/arm64/v8 is linux/arm64."""
    return "/".join(platform.split("/")[:2])


class ImageConfig(Value):
    """The parts of an OCI image config that say what is inside. `env` is the image's environment."""

    env: dict[str, str] = {}
    labels: dict[str, str] = {}
    history: tuple[str, ...] = ()  # created_by of each step
    platform: str | None = None  # what it was built for, such as linux/amd64
    diff_ids: tuple[Digest, ...] = ()  # the layers' own digests, unpacked, in order


class TaggedImage(Value):
    """A tag of a mirror: `provision select --tags` reads exactly this (a bare string is a complete one).

    `env`, `labels` and `history` come from the image's own config; None where nobody has read it.
    """

    reference: str
    sync: SyncState = SyncState.COMPLETE
    digest: Digest | None = None
    platforms: tuple[str, ...] | None = None
    env: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    history: tuple[str, ...] | None = None
    problems: tuple[Problem, ...] = ()  # what the sync check found


class ImageFacts(Value):
    """What we hold an image to be. `sources` says for each fact where it came from: env, history or tag.

    `compiled_for` is TORCH_CUDA_ARCH_LIST as an NGC image writes it; None where nobody has read it. `problems` are
    those of the image itself, whatever the node.
    """

    reference: str
    family: Family = "wheel"
    torch: str | None = None  # "2.8.0"; an NGC build keeps its "2.9.0a0+50eac811a6"
    cuda: CudaVersion | None = None
    cudnn: DottedVersion | None = None
    flavour: Flavour | None = None
    month: str | None = None  # of an NGC tag: "25.09"
    integrated: bool = False  # made for the integrated GPUs of Jetson boards
    compiled_for: tuple[str, ...] | None = None
    platforms: tuple[str, ...] = ("linux/amd64",)
    requires: tuple[str, ...] = ()  # NVIDIA_REQUIRE_* expressions, all of which must hold
    sync: SyncState = SyncState.COMPLETE
    sources: dict[str, str] = {}
    problems: tuple[Problem, ...] = ()
