"""Made-up labs and catalogs of any size, always the same ones."""

from itertools import cycle, islice

from provisioner.adapters.lab.compatibility_data import load
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.node import GpuProfile, NodeProfile
from provisioner.domain.values.version import ComputeCapability, DriverVersion

# (name, compute capability, kernel module), and drivers as a lab that grew over the years has them
_CARDS = (
    ("NVIDIA GeForce GTX 1080 Ti", "6.1", "proprietary"),
    ("Tesla V100-SXM2-16GB", "7.0", "proprietary"),
    ("NVIDIA GeForce RTX 2080 Ti", "7.5", "open"),
    ("NVIDIA A100-SXM4-80GB", "8.0", "open"),
    ("NVIDIA GeForce RTX 3090", "8.6", "open"),
    ("NVIDIA GeForce RTX 4090", "8.9", "open"),
    ("NVIDIA H100 80GB HBM3", "9.0", "open"),
    ("NVIDIA GeForce RTX 5090", "12.0", "open"),
)
_DRIVERS = ("470.256.02", "535.183.01", "550.54.15", "570.172.08", "575.64.03", "580.65.06", "580.95.05")


def nodes(count: int) -> list[NodeProfile]:
    """Kinds of machines come round every 56 nodes, some of them with two kinds of cards."""
    kinds = cycle((card, driver) for driver in _DRIVERS for card in range(len(_CARDS)))
    return [_node(place, card, driver) for place, (card, driver) in enumerate(islice(kinds, count))]


def lab(count: int, kinds: int = 8) -> list[NodeProfile]:
    """A lab as it is bought: of a few kinds, many of each."""
    bought = nodes(kinds)
    return [bought[place % kinds].model_copy(update={"name": f"n{place:05}"}) for place in range(count)]


def _node(place: int, card: int, driver: str) -> NodeProfile:
    other = card + 1 if place % 5 == 0 and card in {2, 3, 4, 5} else card
    return NodeProfile(
        name=f"n{place:05}",
        driver=DriverVersion(driver),
        kernel_module="open" if _CARDS[card][2] == "open" else "proprietary",
        toolkit_mode="cdi" if place % 3 else "legacy",
        gpus=(_gpu(card), _gpu(other)),
    )


def _gpu(card: int) -> GpuProfile:
    name, capability, _ = _CARDS[card]
    return GpuProfile(name=name, compute_capability=ComputeCapability(capability))


def tags(count: int) -> list[TaggedImage]:
    """Every known build as its tags, in one repository after the other."""
    names = [
        f"{patch}-cuda{build.cuda}-cudnn9-{flavour}"
        for release in load().releases
        for patch in release.patches
        for build in release.builds
        for flavour in ("runtime", "devel")
    ]
    every = (f"mirror{at}.lab/pytorch/pytorch:{name}" for at in range(count // len(names) + 1) for name in names)
    return [TaggedImage(reference=reference) for reference in islice(every, count)]
