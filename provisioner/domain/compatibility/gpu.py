"""One graphics card under one driver: its product, and whether that driver drives it."""

import re
from typing import Literal

from provisioner.domain.compatibility.brand import brand_of, strip_mig_suffix
from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.rows import OpenModule, Product
from provisioner.domain.values.image import base_platform
from provisioner.domain.values.model import Value
from provisioner.domain.values.node import GpuProfile, KernelModule, NodeProfile
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.version import ComputeCapability, DriverVersion

# Words of an NVML name that distinguish two boards of one product, but not two products.
_DESCRIPTIVE = re.compile(r"nvidia|geforce|gpu|generation|edition|workstation|pcie|sxm\d*|hbm\d?e?|nvl\d*|ac|\d+gb?")


class Card(Value):
    """A card with everything about its node that a verdict depends on; equal cards share their verdicts.

    `module` is "contested" if the node's flavour is unknown and no flavour drives all of its cards. `mixed`: no flavour
    drives every card of the node, even with another driver. `beside`: the other cards that the driver drives now;
    what is proposed for this card must not make them invisible.
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
    mixed: bool = False
    beside: tuple["Card", ...] = ()

    def __str__(self) -> str:
        """Return name and compute capability, for a sentence."""
        return f"{self.name or 'GPU'} (compute capability {self.capability})"


def _words(name: str) -> tuple[str, ...]:
    return tuple(name.lower().split())


def product_of(name: str, capability: ComputeCapability, data: CompatibilityData) -> Product | None:
    """Return the product that an NVML name denotes, None if there is no row for it.

    "RTX 5060 Ti" is not "RTX 5060": after the product's name only descriptive words may follow.
    """
    key = (name, capability)
    if key not in data.products_by_name:
        data.products_by_name[key] = _find_product(name, capability, data)
    return data.products_by_name[key]


def _find_product(name: str, capability: ComputeCapability, data: CompatibilityData) -> Product | None:
    words = _words(strip_mig_suffix(name))
    while words and words[0] in {"nvidia", "geforce"}:
        words = words[1:]
    named = [row for row in data.products_of(capability) if _denotes(words, _words(row.name))]
    return max(named, key=lambda row: len(row.name), default=None)


def _denotes(words: tuple[str, ...], product: tuple[str, ...]) -> bool:
    rest = words[len(product) :]
    return words[: len(product)] == product and all(_DESCRIPTIVE.fullmatch(word) for word in rest)


def _open_module(card: Card, data: CompatibilityData) -> OpenModule:
    product = product_of(card.name, card.capability, data)
    if product is not None and product.open_module is not None:
        return product.open_module
    architecture = data.architecture(card.capability)
    return "supported" if architecture is None else architecture.open_module


def _first_drivers(card: Card, data: CompatibilityData) -> tuple[DriverVersion, ...]:
    """Return the first release of each line that drives this card: its product's own, else its architecture's."""
    product = product_of(card.name, card.capability, data)
    if product is not None and product.since:
        return product.since
    architecture = data.architecture(card.capability)
    return () if architecture is None or architecture.min_driver is None else (architecture.min_driver,)


def _has_card(driver: DriverVersion, card: Card, data: CompatibilityData) -> bool:
    """Return whether a release is new enough for the card.

    A branch older than all that have the card, or between two of them, is not: it ended before the card came, or a
    release of it would be in the row. A branch younger than all of them was made from one that has the card.
    """
    product = product_of(card.name, card.capability, data)
    if product is None or not product.since:
        return all(driver >= first for first in _first_drivers(card, data))
    own = [first for first in product.since if data.line_of(first) == data.line_of(driver)]
    if own:
        return driver >= min(own)
    branch = data.branch_of(driver)
    without = [last for last in product.unlisted if data.branch_of(last) == branch]
    return branch > max(map(data.branch_of, product.since)) and all(driver > last for last in without)


def _last_branch(card: Card, data: CompatibilityData) -> int | None:
    architecture = data.architecture(card.capability)
    return None if architecture is None else architecture.last_branch


def proposed_driver(card: Card, at_least: DriverVersion | None, data: CompatibilityData) -> DriverVersion | None:
    """Return the release to install for a card, not older than `at_least`; None if there is none.

    It is the newest of the oldest branch that NVIDIA supports, or, for cards that no such branch drives, of their last.
    It drives the cards beside it as well.
    """
    if card.mixed and not drives(card, data):
        return None
    lasts = {last for each in (card, *card.beside) if (last := _last_branch(each, data)) is not None}
    newest = {release for last in lasts if (release := data.last_driver(last))}
    known = sorted({*data.supported_releases, *newest})
    return next(
        (
            driver
            for driver in known
            if (at_least is None or driver >= at_least)
            and data.branch_of(driver) <= min(lasts, default=driver.major)
            and all(_has_card(driver, each, data) for each in (card, *card.beside))
        ),
        None,
    )


def build_cards(node: NodeProfile, data: CompatibilityData) -> tuple[Card, ...]:
    """Return the cards of a node, in its own order."""
    own = tuple(_build_card(node, gpu) for gpu in node.gpus)
    if len(set(own)) == 1:
        return own
    flavours = {_open_module(card, data) for card in own if not _is_too_new(card, data)}
    if node.kernel_module is None and flavours >= {"never", "required"}:
        own = tuple(card if card.reported else card.model_copy(update={"module": "contested"}) for card in own)
    visible = sorted({card for card in own if not driver_problems(card, data)}, key=repr)
    mixed = {_open_module(card, data) for card in own} >= {"never", "required"}
    return tuple(
        card.model_copy(update={"mixed": mixed, "beside": tuple(other for other in visible if other != card)})
        for card in own
    )


def _build_card(node: NodeProfile, gpu: GpuProfile) -> Card:
    capability = gpu.compute_capability
    return Card(
        name=gpu.name,
        capability=ComputeCapability(f"{capability.major}.{capability.minor}"),
        brand=brand_of(gpu),
        integrated=gpu.integrated,
        reported=gpu.reported and node.driver is not None,
        platform=base_platform(node.platform),
        driver=node.driver,
        module=node.kernel_module,
        require_checked=node.toolkit_mode != "cdi",  # unknown counts as the stricter of the two
    )


def driver_problems(card: Card, data: CompatibilityData) -> tuple[Problem, ...]:
    """Return why the driver does not drive the card, whatever the image; empty if it does.

    The driver drives a card that NVML reports, whatever the data says of it.
    """
    if card.reported:
        return ()
    if card.driver is None:
        return (_no_driver(card, data),)
    found = (_too_new(card, data), *_too_old(card, data), _wrong_module(card, data))
    return tuple(problem for problem in found if problem is not None)


def drives(card: Card, data: CompatibilityData) -> bool:
    """Return whether a driver is loaded that is neither too old nor too new for the card, whatever its module."""
    if card.reported:
        return True
    return card.driver is not None and not _is_too_new(card, data) and _has_card(card.driver, card, data)


_FLAVOUR = {
    "never": " with the proprietary kernel module",
    "supported": "",
    "required": " with the open kernel module",
}


def _no_driver(card: Card, data: CompatibilityData) -> Problem:
    return Problem(
        "gpu_not_visible",
        f"no loaded NVIDIA driver was found for {card}",
        "without a loaded driver no container sees the card",
        f"{_install(card, data)}, reboot, then `provision probe` again",
    )


def _too_new(card: Card, data: CompatibilityData) -> Problem | None:
    architecture = data.architecture(card.capability)
    if architecture is None or not _is_too_new(card, data):
        return None
    driver = proposed_driver(card, None, data)
    return Problem(
        "driver_too_new",
        f"driver {card.driver} no longer drives {card}",
        f"{architecture.last_branch} is the last driver branch for {architecture.name}",
        (
            f"install a driver of the {data.branch_of(driver)} branch, for example {driver}, and pin it there"
            if driver
            else _install(card, data)
        ),
    )


def _is_too_new(card: Card, data: CompatibilityData) -> bool:
    last = _last_branch(card, data)
    return last is not None and card.driver is not None and data.branch_of(card.driver) > last


def _install(card: Card, data: CompatibilityData) -> str:
    """Return the step that makes a card visible which the driver does not drive, and no other one invisible."""
    driver = proposed_driver(card, None, data)
    flavour = _FLAVOUR[_open_module(card, data)]
    if driver is None and (card.mixed or card.beside):
        return "move this card to another node, or leave it out: no driver drives it and the node's other cards"
    driver = driver or max(_first_drivers(card, data), default=None)
    return f"install {f'driver {driver}' if driver else 'an NVIDIA driver'}{flavour}"


def _too_old(card: Card, data: CompatibilityData) -> tuple[Problem, ...]:
    """Return two problems: `driver_too_old` alone may also concern an image on a card that is visible."""
    if card.driver is None or _has_card(card.driver, card, data):
        return ()
    firsts = sorted(_first_drivers(card, data))
    shown = [first for first in firsts if len(data.line_of(first)) == 1] or firsts  # without betas
    fix = _install(card, data)
    return (
        Problem(
            "driver_too_old",
            (
                f"driver {card.driver} is older than {shown[0]}, the first that drives {card}"
                if card.driver < shown[0]
                else f"driver {card.driver} does not drive {card}, which came with {' and '.join(map(str, shown))}"
            ),
            "a driver supports only cards released before it",
            fix,
        ),
        Problem(
            "gpu_not_visible",
            f"{card} is not driven by {card.driver}",
            "neither NVML nor a container sees a card that the driver does not know",
            fix,
        ),
    )


_MODULE_WHY = {
    "open": "the open kernel module drives Turing and newer cards only",
    "proprietary": "this card needs the open kernel module; the proprietary one does not drive it",
    "contested": "one card of this node needs the open kernel module, another the proprietary one",
}
_MODULE_FIX = {
    "open": "install the proprietary flavour of {driver} and reboot",
    "proprietary": "install the open flavour of {driver} (nvidia-open) and reboot; if the card is still"
    " missing, enable Above 4G Decoding and Resizable BAR in the firmware",
    "contested": "move this card or the other one to another node (`cat /proc/driver/nvidia/version` shows the module)",
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
        _MODULE_WHY["contested" if card.mixed else card.module],
        _MODULE_FIX["contested" if card.mixed else card.module].format(driver=_driver_with_module(card, data)),
    )


def _driver_with_module(card: Card, data: CompatibilityData) -> str:
    """Return the driver whose other flavour drives the card: the present one, else the one that would."""
    driver = None if drives(card, data) else proposed_driver(card, None, data)
    return f"driver {driver}" if driver else "the same driver branch"
