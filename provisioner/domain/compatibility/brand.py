"""Which brand a card is of, as NVIDIA_REQUIRE_CUDA compares it: what NVML says, or else what its name tells."""

import re

from provisioner.domain.values.node import GpuProfile

# A MIG device is called by its parent and its own size: "NVIDIA A100-SXM4-40GB MIG 1g.5gb".
_MIG = re.compile(r"\s+mig\s.*", re.IGNORECASE)
# In the order in which a name is tried: "Quadro RTX 6000" is no plain Quadro, "RTX 5000 Ada" no GeForce.
_BRANDS = (
    # A slice that a hypervisor made: "GRID V100D-32Q", "NVIDIA A40-8C". The letter is what it is licensed for.
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
    (r"\brtx (pro|a?\d{3,4})\b", "nvidiartx"),
    # Data-center cards; a T400 or T1000 is a workstation's.
    (r"\b(g?[bh]\d{1,3}|[al]\d{1,3}[gms]?|t4g?|p(4|6|40|100)|v100[a-z]?)\b", "nvidia"),
)


def brand_of(gpu: GpuProfile) -> str:
    """As libnvidia-container compares it: lower case, one word. Empty where neither NVML nor the name tells."""
    return re.sub(r"[^a-z]", "", gpu.brand.lower()) or named_brand(gpu.name)


def named_brand(name: str) -> str:
    """The brand that a name alone tells."""
    plain = of_parent(name.lower()).strip()
    return next((brand for pattern, brand in _BRANDS if re.search(pattern, plain)), "")


def of_parent(name: str) -> str:
    """The name of the card that a MIG device is a slice of; any other name as it is."""
    return _MIG.sub("", name)
