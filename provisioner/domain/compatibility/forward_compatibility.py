"""Forward compatibility: an image on nvidia/cuda brings a libcuda of its own, from the package cuda-compat.

Its NVIDIA_REQUIRE_CUDA names, beside its own CUDA, the brands and the driver branches on which NVIDIA supports that:
"brand=tesla,driver>=535,driver<536". Until CUDA 12.4 GeForce stands there too, for minor-version compatibility alone:
there the package ends in error 804, "forward compatibility was attempted on non supported HW" (nvidia-docker#1515,
candle#3358). NGC images switch their package on in an entry point, which a seat replaces: only what is named counts.
"""

from provisioner.domain.compatibility.brand import named_brand
from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.gpu import Card
from provisioner.domain.compatibility.requirement import admitted_by_brand, devel_requirement
from provisioner.domain.values.image import ImageFacts
from provisioner.domain.values.version import DriverVersion


def runs_forward(card: Card, image: ImageFacts, data: CompatibilityData) -> bool:
    """Whether the image's own libcuda runs on this card under its older driver."""
    return _supported(card, data) and any(admitted_by_brand(text, card, data) for text in image.requires)


def would_as_devel(card: Card, image: ImageFacts, data: CompatibilityData) -> bool:
    """Whether the -devel image beside this -runtime one would run."""
    if image.cuda is None or image.flavour != "runtime" or not _supported(card, data):
        return False
    return admitted_by_brand(devel_requirement(image.cuda, data), card, data)


def _supported(card: Card, data: CompatibilityData) -> bool:
    """NVML calls a T400 "NVIDIA" as it does an A100, so the name must say it too."""
    return {card.brand, named_brand(card.name)} <= set(data.forward_brands) and not card.integrated


def replaces_libcuda(driver: DriverVersion | None, image: ImageFacts, data: CompatibilityData) -> bool:
    """Whether the container runtime puts the image's libcuda in place of an older driver's; it asks no card.

    It does so where the package is of a newer branch (nvidia-container-toolkit, cmd/nvidia-cdi-hook/cudacompat).
    """
    if driver is None or image.cuda is None or not any("brand=" in text for text in image.requires):
        return False
    own = data.toolkit_driver(image.cuda)
    return own is None or driver.major < own.major
