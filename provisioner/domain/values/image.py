"""What an image contains, as read from its config or else from its tag."""

from typing import Literal

from provisioner.domain.values.measured import MeasuredImage
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.reference import Digest
from provisioner.domain.values.sync import SyncState
from provisioner.domain.values.version import CudaVersion, DottedVersion

Flavour = Literal["runtime", "devel"]
PLATFORMS = ("linux/amd64", "linux/arm64")  # for which there are images with CUDA
Family = Literal["wheel", "ngc"]  # a published wheel of torch, or NVIDIA's own build


def base_platform(platform: str) -> str:
    """Return a platform without its variant: linux/arm64/v8 is linux/arm64."""
    return "/".join(platform.split("/")[:2])


class ImageConfig(Value):
    """The parts of an OCI image config that describe its contents. `env` is the image's environment.

    `digest` is that of the config itself: two images with equal configs have the same layers and settings.
    """

    env: dict[str, str] = {}
    labels: dict[str, str] = {}
    history: tuple[str, ...] = ()  # created_by of each step
    volumes: tuple[str, ...] = ()  # paths
    platform: str | None = None  # what it was built for, such as linux/amd64
    diff_ids: tuple[Digest, ...] = ()  # the layers' own digests, unpacked, in order
    digest: Digest | None = None


class TaggedImage(Value):
    """A tag of a mirror, as `provision select --tags` reads it (a bare string is a complete one).

    `env`, `labels`, `history` and `volumes` (paths) come from the image's own config; None or () if it was not read.
    """

    reference: str
    sync: SyncState = SyncState.COMPLETE
    digest: Digest | None = None
    platforms: tuple[str, ...] | None = None
    env: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    history: tuple[str, ...] | None = None
    volumes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()  # what the sync check found


class ImageFacts(Value):
    """What an image contains. `sources` gives the source of each fact: env, history or tag.

    `compiled_for` is TORCH_CUDA_ARCH_LIST as an NGC image writes it; None if it was not read. `measured` is what was
    read in the image itself, and takes precedence. `is_measurable`: `provision facts measure` finds out what is not
    known of it. `problems` are those of the image itself, whatever the node.
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
    measured: MeasuredImage | None = None
    is_measurable: bool = True
    platforms: tuple[str, ...] = ()  # empty: not known
    requires: tuple[str, ...] = ()  # NVIDIA_REQUIRE_* expressions, all of which must hold
    sync: SyncState = SyncState.COMPLETE
    sources: dict[str, str] = {}
    problems: tuple[Problem, ...] = ()
