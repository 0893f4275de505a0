"""Forward compatibility: an image based on nvidia/cuda has its own libcuda, from the package cuda-compat.

Its NVIDIA_REQUIRE_CUDA names, beside its own CUDA, the brands and the driver branches on which NVIDIA supports that:
"brand=tesla,driver>=535,driver<536". Until CUDA 12.4 it names GeForce too, for minor-version compatibility only: on
GeForce the package fails with error 804, "forward compatibility was attempted on non supported HW"
(nvidia-docker#1515, candle#3358). NGC images enable the package in an entry point, which a seat replaces, so only the
named brands and branches count.
"""

from provisioner.domain.compatibility.brand import brand_from_name
from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.gpu import Card
from provisioner.domain.compatibility.requirement import devel_requirement, is_admitted_by_brand
from provisioner.domain.values.image import ImageFacts
from provisioner.domain.values.version import DriverVersion


def has_forward_compatibility(card: Card, image: ImageFacts, data: CompatibilityData) -> bool:
    """Return whether the image's own libcuda runs on this card under its older driver."""
    return _is_supported(card, data) and any(is_admitted_by_brand(text, card, data) for text in image.requires)


def devel_image_would_run(card: Card, image: ImageFacts, data: CompatibilityData) -> bool:
    """Return whether the -devel image with the same versions as this -runtime one would run."""
    if image.cuda is None or image.flavour != "runtime" or not _is_supported(card, data):
        return False
    return is_admitted_by_brand(devel_requirement(image.cuda, data), card, data)


def _is_supported(card: Card, data: CompatibilityData) -> bool:
    """NVML reports brand "NVIDIA" for a T400 as for an A100, so the brand from the name must be supported as well."""
    return {card.brand, brand_from_name(card.name)} <= set(data.forward_brands) and not card.integrated


def replaces_libcuda(driver: DriverVersion | None, image: ImageFacts, data: CompatibilityData) -> bool:
    """Return whether the container runtime replaces the driver's libcuda by the image's, whatever the card.

    It does so if the image's package is of a newer branch (nvidia-container-toolkit, cmd/nvidia-cdi-hook/cudacompat).
    """
    if driver is None or image.cuda is None or not any("brand=" in text for text in image.requires):
        return False
    own = data.toolkit_driver(image.cuda)
    return own is None or driver.major < own.major
