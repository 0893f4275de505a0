"""The images of a mirror of pytorch/pytorch: like the real ones except for their size.

They have a real Python, from conda or of the system, and environment, labels, history and requirements of the
originals. The stand-in for torch has the architectures that each build was compiled for.
"""

from dataclasses import dataclass

from tests.lab import images, seeds, trees
from tests.lab.engine import Engine
from tests.lab.images import Recipe
from tests.lab.registry import Registry

REPOSITORY = "pytorch/pytorch"
LOCAL = "lab/pytorch"
CONDA = "lab/python-conda"
SYSTEM_PYTHON_SINCE = (2, 10)

# Compiled architectures by CUDA version; from 2.8 to 2.10 the CUDA 12.8 builds include Volta.
MAXWELL_TO_HOPPER = "50,60,70,75,80,86,90"
VOLTA_TO_BLACKWELL = "70,75,80,86,90,100,120"
TURING_TO_BLACKWELL = "75,80,86,90,100,120"

# nvidia/cuda's NVIDIA_REQUIRE_CUDA lists branches with forward compatibility, for these brands only: no GeForce.
BRANDS = (
    *("unknown", "grid", "tesla", "nvidia", "quadro", "quadrortx", "nvidiartx"),
    *("vapps", "vpc", "vcs", "vws", "cloudgaming"),
)
BRANCHES = {"12.6": (470, 535, 550), "12.8": (470, 535, 550), "13.0": (535, 550, 565)}


@dataclass(frozen=True)
class DemoTag:
    torch: str
    cuda_full: str
    architectures: str
    kind: str = "runtime"

    @property
    def cuda(self) -> str:
        return self.cuda_full.rpartition(".")[0]

    @property
    def tag(self) -> str:
        return f"{self.torch}-cuda{self.cuda}-cudnn9-{self.kind}"

    @property
    def name(self) -> str:
        """REPOSITORY:TAG, as on a mirror."""
        return f"{REPOSITORY}:{self.tag}"

    @property
    def image(self) -> str:
        """Name of the image on the outer engine."""
        return f"{LOCAL}:{self.tag}"

    @property
    def is_conda(self) -> bool:
        return tuple(int(part) for part in self.torch.split(".")[:2]) < SYSTEM_PYTHON_SINCE


DEMO_TAGS = (
    DemoTag("2.7.1", "11.8.0", "37," + MAXWELL_TO_HOPPER),
    DemoTag("2.7.1", "12.8.1", TURING_TO_BLACKWELL),
    DemoTag("2.8.0", "12.6.3", MAXWELL_TO_HOPPER),
    DemoTag("2.8.0", "12.8.1", VOLTA_TO_BLACKWELL),
    DemoTag("2.8.0", "12.8.1", VOLTA_TO_BLACKWELL, "devel"),
    DemoTag("2.9.1", "12.8.1", VOLTA_TO_BLACKWELL),
    DemoTag("2.9.1", "13.0.0", TURING_TO_BLACKWELL),
    DemoTag("2.10.0", "12.6.3", MAXWELL_TO_HOPPER),
    DemoTag("2.10.0", "12.8.1", VOLTA_TO_BLACKWELL),
    DemoTag("2.10.0", "13.0.0", TURING_TO_BLACKWELL),
    DemoTag("2.11.0", "12.8.1", TURING_TO_BLACKWELL),
    DemoTag("2.13.0", "13.0.3", TURING_TO_BLACKWELL),
    DemoTag("2.14.1", "12.6.3", MAXWELL_TO_HOPPER),
    DemoTag("2.14.1", "13.0.3", TURING_TO_BLACKWELL),
    DemoTag("2.14.1", "13.0.3", TURING_TO_BLACKWELL, "devel"),
)


def build_demo_images(engine: Engine) -> None:
    python = images.import_tree(engine, trees.PYTHON)
    images.build(engine, [Recipe(CONDA, "conda", python)])
    images.build(engine, [_nvidia_cuda(tag) for tag in DEMO_TAGS if tag.kind == "devel"])
    images.build(engine, [_pytorch(tag) for tag in DEMO_TAGS])


def _python(tag: DemoTag) -> str:
    return CONDA if tag.is_conda else f"lab/tree-{trees.PYTHON.name}"


def _nvidia_cuda(tag: DemoTag) -> Recipe:
    arguments = {"BASE": _python(tag), "CUDA_VERSION": tag.cuda_full, "REQUIRE_CUDA": required_cuda(tag.cuda)}
    return Recipe(_cuda_image(tag), "cuda", _python(tag), args=arguments)


def _cuda_image(tag: DemoTag) -> str:
    return f"lab/cuda:{tag.cuda_full}-for-{tag.torch}"


def required_cuda(cuda: str) -> str:
    spans = [f"driver>={branch},driver<{branch + 1}" for branch in BRANCHES[cuda]]
    return " ".join([f"cuda>={cuda}", *(f"brand={brand},{span}" for span in spans for brand in BRANDS)])


def _pytorch(tag: DemoTag) -> Recipe:
    base = _cuda_image(tag) if tag.kind == "devel" else _python(tag)
    arguments = {
        "BASE": base,
        "PYTORCH_VERSION": tag.torch,
        "TRITON_VERSION": "",
        "CUDA_VERSION": tag.cuda_full,
        "ARCHITECTURES": tag.architectures,
    }
    return Recipe(tag.image, "torch", base, args=arguments)


def push_demo_tags(registry: Registry) -> dict[str, str]:
    """Put all of DEMO_TAGS on a registry; return name (REPOSITORY:TAG) -> digest."""

    def push() -> None:
        for tag in DEMO_TAGS:
            registry.push(tag.image, tag.name)

    seeds.fill(registry, "demo", [tag.image for tag in DEMO_TAGS], push)
    return {tag.name: registry.digest(tag.name) for tag in DEMO_TAGS}
