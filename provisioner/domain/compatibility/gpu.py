"""One graphics card under one driver: what its name tells, and whether that driver drives it."""

import re
from typing import Literal

from provisioner.domain.compatibility.brand import brand_of, of_parent
from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.rows import OpenModule, Product
from provisioner.domain.values.image import base_platform
from provisioner.domain.values.model import Value
from provisioner.domain.values.node import GpuProfile, KernelModule, NodeProfile
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.version import ComputeCapability, DriverVersion

# Words of an NVML name that tell two boards of one product apart, but no two products.
_PLAIN = re.compile(r"nvidia|geforce|gpu|generation|edition|workstation|pcie|sxm\d*|hbm\d?e?|nvl\d*|ac|\d+gb?")


class Card(Value):
    """A card with all of its node that a verdict depends on; equal cards share their verdicts.

    `module` is "contested" where the node's flavour is unknown and no flavour drives all of its cards.
    """

    name: str
    capability: ComputeCapability
    brand: str
    integrated: bool
    reported: bool
    platform: str
    driver: DriverVersion | None
    module: KernelModule | Literal["contested"] | None
    require_checked: bool  # the container runtime checks NVIDIA_REQUIRE_*

    def __str__(self) -> str:
        return f"{self.name or 'GPU'} (compute capability {self.capability})"


def _words(name: str) -> tuple[str, ...]:
    return tuple(name.lower().split())


def product_of(name: str, capability: ComputeCapability, data: CompatibilityData) -> Product | None:
    """The product that an NVML name stands for. "RTX 5060 Ti" is no "RTX 5060", whatever follows must be plain."""
    words = _words(of_parent(name))
    while words and words[0] in {"nvidia", "geforce"}:
        words = words[1:]
    named = [row for row in data.products_of(capability) if _stands_for(words, _words(row.name))]
    return max(named, key=lambda row: len(row.name), default=None)


def _stands_for(words: tuple[str, ...], product: tuple[str, ...]) -> bool:
    rest = words[len(product) :]
    return words[: len(product)] == product and all(_PLAIN.fullmatch(word) for word in rest)


def _open_module(card: Card, data: CompatibilityData) -> OpenModule:
    product = product_of(card.name, card.capability, data)
    if product is not None and product.open_module is not None:
        return product.open_module
    architecture = data.architecture(card.capability)
    return "supported" if architecture is None else architecture.open_module


def min_driver(card: Card, data: CompatibilityData) -> DriverVersion | None:
    """The oldest driver that drives this card: its product's own floor, else its architecture's.

    A product's floor is where the newest branch began to list it; later releases of an older branch may list it too
    (RTX 5060 Ti: 575.51.02, but also 570.153.02). So what NVML itself names is not doubted.
    """
    product = product_of(card.name, card.capability, data)
    if product is not None and product.min_driver is not None and not card.reported:
        return product.min_driver
    architecture = data.architecture(card.capability)
    return None if architecture is None else architecture.min_driver


def cards(node: NodeProfile, data: CompatibilityData) -> tuple[Card, ...]:
    """The cards of a node, in its own order."""
    own = tuple(_card(node, gpu) for gpu in node.gpus)
    flavours = {_open_module(card, data) for card in own if _too_new(card, data) is None}
    if node.kernel_module is None and flavours >= {"never", "required"}:
        return tuple(card.model_copy(update={"module": "contested"}) for card in own)
    return own


def _card(node: NodeProfile, gpu: GpuProfile) -> Card:
    capability = gpu.compute_capability
    return Card(
        name=gpu.name,
        capability=ComputeCapability(f"{capability.major}.{capability.minor}"),
        brand=brand_of(gpu),
        integrated=gpu.integrated,
        reported=gpu.reported,
        platform=base_platform(node.platform),
        driver=node.driver,
        module=node.kernel_module,
        require_checked=node.toolkit_mode != "cdi",  # unknown counts as the stricter of the two
    )


def driven(card: Card, data: CompatibilityData) -> tuple[Problem, ...]:
    """Why the card is not driven at all, whatever the image; empty where it is."""
    if card.driver is None:
        return (_no_driver(card, data),)
    found = (_too_new(card, data), *_too_old(card, data), _wrong_module(card, data))
    return tuple(problem for problem in found if problem is not None)


def _no_driver(card: Card, data: CompatibilityData) -> Problem:
    floor = min_driver(card, data)
    wanted = f"driver {data.first_driver(floor)} or newer" if floor else "an NVIDIA driver"
    return Problem(
        "gpu_not_visible",
        f"no driver is known to run for {card}",
        "without a loaded driver no container sees the card",
        f"install {wanted}, reboot, then `provision probe` again",
    )


def _too_new(card: Card, data: CompatibilityData) -> Problem | None:
    architecture = data.architecture(card.capability)
    last = None if architecture is None else architecture.last_branch
    if architecture is None or last is None or card.driver is None or card.driver.major <= last:
        return None
    newest = data.last_driver(last)
    return Problem(
        "driver_too_new",
        f"driver {card.driver} no longer drives {card}",
        f"{last} is the last driver branch for {architecture.name}",
        f"go back to the {last} branch" + (f", for example {newest}" if newest else "") + ", and hold it there",
    )


def _too_old(card: Card, data: CompatibilityData) -> tuple[Problem, ...]:
    """Two codes for one fact: `driver_too_old` may also be about an image alone, and then the card is visible."""
    floor = min_driver(card, data)
    if floor is None or card.driver is None or card.driver >= floor:
        return ()
    what = f"driver {card.driver} is older than {floor}, the first that drives {card}"
    flavour = " with the open kernel module" if _open_module(card, data) == "required" else ""
    fix = f"install driver {data.first_driver(floor)} or newer{flavour}"
    return (
        Problem("driver_too_old", what, "a driver knows only the cards of its own day", fix),
        Problem(
            "gpu_not_visible",
            f"{card} is not driven by {card.driver}",
            f"neither NVML nor a container sees it before driver {floor}",
            fix,
        ),
    )


_MODULE_WHY = {
    "open": "the open kernel module drives Turing and newer cards only",
    "proprietary": "this card needs the open kernel module; the proprietary one does not drive it",
    "contested": "one card of this node needs the open kernel module, another the proprietary one",
}
_MODULE_FIX = {
    "open": "install the proprietary flavour of the same driver branch and reboot",
    "proprietary": "install the open flavour of the same driver branch (nvidia-open) and reboot; if the card is still"
    " not there, enable Above 4G Decoding and Resizable BAR in the firmware",
    "contested": "see `cat /proc/driver/nvidia/version`, state kernel_module, and move one of the cards elsewhere",
}


def _wrong_module(card: Card, data: CompatibilityData) -> Problem | None:
    needs = _open_module(card, data)
    wrong = {"never": ("open", "contested"), "required": ("proprietary", "contested"), "supported": ()}[needs]
    if card.module is None or card.module not in wrong:
        return None
    what = "an unknown kernel module" if card.module == "contested" else f"the {card.module} kernel module"
    return Problem(
        "gpu_not_visible",
        f"{card} is not driven by {what} of {card.driver}",
        _MODULE_WHY[card.module],
        _MODULE_FIX[card.module],
    )
