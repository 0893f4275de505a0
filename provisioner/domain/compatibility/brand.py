"""The brand of a card, as NVIDIA_REQUIRE_CUDA compares it: what NVML reports, else derived from its name."""

import re

from provisioner.domain.values.node import GpuProfile

# A MIG device is named after its parent and its own size: "NVIDIA A100-SXM4-40GB MIG 1g.5gb".
_MIG = re.compile(r"\s+mig\s.*", re.IGNORECASE)
# In the order in which a name is tried: "Quadro RTX 6000" is not a plain Quadro, "RTX 5000 Ada" not a GeForce.
_BRANDS = (
    # A virtual GPU of a hypervisor: "GRID V100D-32Q", "NVIDIA A40-8C". The letter is its licence type.
    (r"-\d+q$", "vws"),
    (r"-\d+c$", "vcs"),
    (r"-\d+b$", "vpc"),
    (r"-\d+a$", "vapps"),
    (r"^(nvidia )?grid\b", "grid"),
    (r"geforce|\bgtx \d|\brtx [2-5]0[5-9]0\b", "geforce"),
    (r"titan", "titan"),
    (r"tesla", "tesla"),
    (r"quadro rtx", "quadrortx"),
    (r"quadro", "quadro"),
    (r"\brtx (pro|a?\d{3,4}[de]?)\b", "nvidiartx"),
    # Data-center cards; a T400 or T1000 is a workstation card.
    (r"\b(g?[bh]\d{1,3}|[al]\d{1,3}[gms]?|t4g?|p(4|6|40|100)|v100[a-z]?)\b", "nvidia"),
)


def brand_of(gpu: GpuProfile) -> str:
    """Return the brand as libnvidia-container compares it: lower case, one word. Empty if it is not known."""
    return re.sub(r"[^a-z]", "", gpu.brand.lower()) or brand_from_name(gpu.name)


def brand_from_name(name: str) -> str:
    """Return the brand that a name alone implies; empty if none."""
    plain = strip_mig_suffix(name.lower()).strip()
    return next((brand for pattern, brand in _BRANDS if re.search(pattern, plain)), "")


def strip_mig_suffix(name: str) -> str:
    """Return the name of the card that a MIG device is part of; any other name unchanged."""
    return _MIG.sub("", name)
