import pytest

from provisioner.domain.compatibility.brand import brand_of
from provisioner.domain.compatibility.gpu import cards, driven, product_of
from provisioner.domain.values.node import GpuProfile
from provisioner.domain.values.version import ComputeCapability
from tests.domain.group import DATA, a_profile


@pytest.mark.parametrize(
    ("name", "product"),
    [
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
        ("NVIDIA GeForce RTX 5090 D", "RTX 5090 D"),
        ("NVIDIA GeForce RTX 5090 D v2", "RTX 5090 D V2"),
        ("NVIDIA GeForce RTX 5090 Laptop GPU", "RTX 5090 Laptop"),
        ("NVIDIA GeForce RTX 5060", "RTX 5060"),
        ("NVIDIA GeForce RTX 5060 Ti", "RTX 5060 Ti"),
        ("NVIDIA GeForce RTX 5060 Ti 16GB", "RTX 5060 Ti"),
        ("NVIDIA GeForce RTX 5070 Ti Laptop GPU", "RTX 5070 Ti Laptop"),
        ("RTX 5090", "RTX 5090"),
        ("NVIDIA GeForce RTX 5090 SUPER", None),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 Blackwell Workstation"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "RTX PRO 6000 Blackwell Max-Q"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000 Blackwell Server"),
        ("NVIDIA RTX PRO 5000 72GB Blackwell", "RTX PRO 5000 72GB Blackwell"),
        ("NVIDIA RTX PRO 5000 Blackwell Generation Laptop GPU", None),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition MIG 1g.24gb", "RTX PRO 6000 Blackwell Server"),
        ("NVIDIA Graphics Device", None),
        ("", None),
    ],
)
def test_a_name_stands_for_one_product_and_no_other(name: str, product: str | None) -> None:
    found = product_of(name, ComputeCapability("12.0"), DATA)

    assert (found and found.name) == product


def test_a_name_alone_does_not_make_a_product() -> None:
    assert product_of("NVIDIA GeForce RTX 5090", ComputeCapability("8.9"), DATA) is None


@pytest.mark.parametrize(
    ("name", "given", "brand"),
    [
        ("NVIDIA GeForce RTX 4090", "", "geforce"),
        ("RTX 4090", "", "geforce"),
        ("GTX 1080 Ti", "", "geforce"),
        ("NVIDIA TITAN RTX", "", "titan"),
        ("Tesla V100-SXM2-16GB", "", "tesla"),
        ("Quadro RTX 6000", "", "quadrortx"),
        ("Quadro P6000", "", "quadro"),
        ("NVIDIA RTX A6000", "", "nvidiartx"),
        ("NVIDIA RTX 6000 Ada Generation", "", "nvidiartx"),
        ("NVIDIA RTX 5000 Ada Generation", "", "nvidiartx"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "", "nvidiartx"),
        ("NVIDIA A100-SXM4-80GB", "", "nvidia"),
        ("NVIDIA H100 80GB HBM3", "", "nvidia"),
        ("NVIDIA L40S", "", "nvidia"),
        ("NVIDIA GB200", "", "nvidia"),
        ("NVIDIA Graphics Device", "", ""),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "", "nvidia"),
        ("GRID V100D-32Q", "", "vws"),
        ("NVIDIA A40-8C", "", "vcs"),
        ("GRID T4-2B", "", "vpc"),
        ("NVIDIA A10-24A", "", "vapps"),
        ("GRID K520", "", "grid"),
        ("NVIDIA T400 4GB", "", ""),
        ("NVIDIA A10G", "", "nvidia"),
        ("P106-100", "", ""),
        ("Tesla T4", "NVIDIA", "nvidia"),  # what NVML says counts
        ("NVIDIA RTX A6000", "NVIDIA RTX", "nvidiartx"),
        ("NVIDIA GeForce RTX 4090", "GeForce", "geforce"),
    ],
)
def test_the_brand_is_what_nvml_says_or_else_what_the_name_tells(name: str, given: str, brand: str) -> None:
    gpu = GpuProfile(name=name, brand=given, compute_capability=ComputeCapability("8.6"))

    assert brand_of(gpu) == brand


@pytest.mark.parametrize(
    ("driver", "module", "hidden"),
    [
        ("580.95.05", None, {0, 1}),  # one of the two is not there, and nobody knows which
        ("580.95.05", "open", {0}),
        ("580.95.05", "proprietary", {1}),
        ("595.58.03", None, {0}),  # no flavour of this branch drives a V100, so nothing is in doubt
    ],
)
def test_no_flavour_drives_a_v100_and_a_5090(driver: str, module: str | None, hidden: set[int]) -> None:
    node = a_profile("v100", "rtx5090", "rtx3090", driver=driver, kernel_module=module)

    assert {place for place, card in enumerate(cards(node, DATA)) if driven(card, DATA)} == hidden


def test_grace_hopper_needs_the_open_module_and_hopper_does_not() -> None:
    node = a_profile("gh200", "h100", kernel_module="proprietary")

    assert [[problem.code for problem in driven(card, DATA)] for card in cards(node, DATA)] == [["gpu_not_visible"], []]


def test_a_card_that_nvml_names_is_known_to_its_driver() -> None:
    """NVIDIA/yum-packaging-precompiled-kmod#62: an RTX 5060 Ti on 570.153.02."""
    described = a_profile("rtx5060ti", driver="570.153.02")
    reported = described.model_copy(update={"gpus": (described.gpus[0].model_copy(update={"reported": True}),)})

    assert [bool(driven(card, DATA)) for node in (described, reported) for card in cards(node, DATA)] == [True, False]
