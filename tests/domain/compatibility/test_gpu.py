from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.compatibility.brand import brand_of
from provisioner.domain.compatibility.gpu import Card, build_cards, driver_problems, product_of, proposed_driver
from provisioner.domain.compatibility.rows import Product
from provisioner.domain.values.node import GpuProfile
from provisioner.domain.values.version import ComputeCapability, DriverVersion
from tests.domain.group import CARDS, DATA, a_profile, cases, data_with


@pytest.mark.parametrize(
    ("name", "product"),
    [
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
        ("NVIDIA GeForce RTX 5090 D", "RTX 5090 D"),
        ("NVIDIA GeForce RTX 5090 D v2", "RTX 5090 D v2"),
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
        ("NVIDIA RTX PRO 5000 Blackwell Generation Laptop GPU", "RTX PRO 5000 Blackwell Generation Laptop"),
        ("NVIDIA RTX PRO 4000 Blackwell SFF Edition", "RTX PRO 4000 Blackwell SFF"),
        ("NVIDIA RTX PRO 6000D Blackwell Workstation Edition", "RTX PRO 6000D Blackwell"),
        ("NVIDIA RTX PRO 7000 Blackwell", None),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition MIG 1g.24gb", "RTX PRO 6000 Blackwell Server"),
        ("NVIDIA Graphics Device", None),
        ("", None),
    ],
)
def test_a_name_denotes_one_product(name: str, product: str | None) -> None:
    found = product_of(name, ComputeCapability("12.0"), DATA)

    assert (found and found.name) == product


def test_a_product_needs_the_right_compute_capability() -> None:
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
        ("NVIDIA H20", "", "nvidia"),
        ("NVIDIA H20-3e", "", "nvidia"),
        ("NVIDIA H800 PCIe", "", "nvidia"),
        ("NVIDIA A800-SXM4-80GB", "", "nvidia"),
        ("NVIDIA A800 40GB Active", "", "nvidia"),
        ("NVIDIA L20", "", "nvidia"),
        ("NVIDIA GeForce RTX 4090 D", "", "geforce"),
        ("RTX 5090 D v2", "", "geforce"),
        ("NVIDIA RTX 6000D", "", "nvidiartx"),
        ("NVIDIA RTX PRO 6000D Blackwell Workstation Edition", "", "nvidiartx"),
        ("NVIDIA RTX 2000E Ada Generation", "", "nvidiartx"),
        ("Tesla T4", "NVIDIA", "nvidia"),  # NVML takes precedence
        ("NVIDIA RTX A6000", "NVIDIA RTX", "nvidiartx"),
        ("NVIDIA GeForce RTX 4090", "GeForce", "geforce"),
    ],
)
def test_the_brand_is_reported_by_nvml_or_derived_from_the_name(name: str, given: str, brand: str) -> None:
    gpu = GpuProfile(name=name, brand=given, compute_capability=ComputeCapability("8.6"))

    assert brand_of(gpu) == brand


@pytest.mark.parametrize(
    ("driver", "module", "hidden"),
    [
        ("580.95.05", None, {0, 1}),  # one of the two is not visible, and which one is not known
        ("580.95.05", "open", {0}),
        ("580.95.05", "proprietary", {1}),
        ("595.58.03", None, {0}),  # no flavour of this branch drives a V100, so the flavour is certain
    ],
)
def test_no_kernel_module_drives_both_a_v100_and_a_5090(driver: str, module: str | None, hidden: set[int]) -> None:
    node = a_profile("v100", "rtx5090", "rtx3090", driver=driver, kernel_module=module)

    assert {place for place, card in enumerate(build_cards(node, DATA)) if driver_problems(card, DATA)} == hidden


def test_grace_hopper_needs_the_open_module_and_hopper_does_not() -> None:
    node = a_profile("gh200", "h100", kernel_module="proprietary")

    assert [[problem.code for problem in driver_problems(card, DATA)] for card in build_cards(node, DATA)] == [
        ["gpu_not_visible"],
        [],
    ]


_LISTED = cases("first_driver")
_BETA_LINES = {DriverVersion(line).key for line in _LISTED["beta_lines"]}
_RELEASES = tuple(map(DriverVersion, _LISTED["releases"]))
_BY_NAME = {row["name"]: row for row in _LISTED["cards"]}
# Listed from 580.119.02 on, and driven by the releases of DGX OS before it.
_DRIVEN_BEFORE = {"NVIDIA GB10": {"580.82.09", "580.95.05", "580.105.08"}}


def _is_beta(driver: DriverVersion) -> bool:
    return driver.key[:2] in _BETA_LINES and driver.text != "535.43.02"


def _planned(name: str, driver: DriverVersion | str | None, **over: Any) -> Card:
    gpu = {"name": name, "compute_capability": _BY_NAME[name]["capability"]}
    return build_cards(a_profile(driver=None if driver is None else str(driver), gpus=[gpu], **over), DATA)[0]


def _lists(name: str, driver: DriverVersion) -> bool:
    """Whether the release lists the card, by the facts alone: on its own branch, or its own line of betas."""
    beta = _is_beta(driver)
    firsts = map(DriverVersion, _BY_NAME[name]["betas" if beta else "since"])
    return any(driver >= first for first in firsts if first.key[: 1 + beta] == driver.key[: 1 + beta])


@pytest.mark.parametrize("name", sorted(_BY_NAME))
def test_a_planned_card_is_driven_by_every_release_that_lists_it(name: str) -> None:
    """Of cards that need the open kernel module, by no other; the list is that of this module."""
    driven = {str(driver) for driver in _RELEASES if not driver_problems(_planned(name, driver), DATA)}
    listed = {str(driver) for driver in _RELEASES if _lists(name, driver)} | _DRIVEN_BEFORE.get(name, set())

    assert listed <= driven
    if any(product.name in name and product.since for product in DATA.products):
        assert driven == listed


@given(name=st.sampled_from(sorted(_BY_NAME)), drivers=st.tuples(*[st.sampled_from(_RELEASES)] * 2))
def test_a_newer_release_of_the_same_line_never_loses_a_card(
    name: str, drivers: tuple[DriverVersion, DriverVersion]
) -> None:
    older, newer = sorted(drivers)
    if DATA.line_of(older) != DATA.line_of(newer):
        newer = DriverVersion(f"{older}.1")

    if not driver_problems(_planned(name, older), DATA):
        assert not driver_problems(_planned(name, newer), DATA)


@pytest.mark.parametrize("name", sorted(_BY_NAME))
def test_a_branch_younger_than_all_that_are_known_drives_the_card(name: str) -> None:
    assert not driver_problems(_planned(name, "640.10.01"), DATA)


@given(row=st.sampled_from([row for row in DATA.products if row.since]), random=st.randoms())
def test_the_order_of_the_releases_in_a_row_does_not_matter(row: Product, random: Random) -> None:
    mixed = row.model_copy(update={"since": tuple(random.sample(row.since, len(row.since)))})
    data = data_with(products=(mixed,))
    cards = [_planned_as(row, driver) for driver in _RELEASES]

    assert [driver_problems(card, data) for card in cards] == [driver_problems(card, DATA) for card in cards]


def _planned_as(row: Product, driver: DriverVersion) -> Card:
    gpu = {"name": row.name, "compute_capability": str(row.capability)}
    return build_cards(a_profile(driver=str(driver), gpus=[gpu]), DATA)[0]


@given(name=st.text(max_size=30), driver=st.sampled_from(_RELEASES))
def test_a_card_of_an_unknown_name_has_the_floor_of_its_architecture(name: str, driver: DriverVersion) -> None:
    gpu = {"name": f"Prototype {name}", "compute_capability": "12.0"}
    (card,) = build_cards(a_profile(driver=str(driver), gpus=[gpu]), DATA)

    assert (not driver_problems(card, DATA)) is (driver >= DriverVersion("570.86.16"))


@pytest.mark.parametrize(
    ("driver", "module", "cards"),
    [
        ("570.153.02", None, ["rtx5060ti"]),  # NVIDIA/yum-packaging-precompiled-kmod#62
        ("565.57.01", "proprietary", ["rtx5090"]),
        ("595.58.03", "open", ["gtx1080ti"]),
        ("580.95.05", None, ["v100", "rtx5090"]),
    ],
)
def test_a_card_that_nvml_reports_is_driven_whatever_the_data_says(
    driver: str, module: str | None, cards: list[str]
) -> None:
    reported = [CARDS[name].model_copy(update={"reported": True}) for name in cards]
    node = a_profile(driver=driver, kernel_module=module, gpus=reported)

    assert [driver_problems(card, DATA) for card in build_cards(node, DATA)] == [()] * len(cards)
    assert "contested" not in {card.module for card in build_cards(node, DATA)}


def test_a_reported_card_under_an_unknown_driver_is_judged_as_a_planned_one() -> None:
    gpu = CARDS["rtx5090"].model_copy(update={"reported": True})

    (card,) = build_cards(a_profile(driver=None, gpus=[gpu]), DATA)
    assert [problem.code for problem in driver_problems(card, DATA)] == ["gpu_not_visible"]


@pytest.mark.parametrize(
    ("driver", "codes"),
    [
        ("580.95.05", set()),
        ("581.57", set()),  # Windows, and so WSL2
        ("582.08", set()),
        ("591.44", {"driver_too_new"}),
    ],
)
def test_a_windows_number_counts_as_its_branch(driver: str, codes: set[str]) -> None:
    (card,) = build_cards(a_profile("gtx1080ti", driver=driver), DATA)

    assert {problem.code for problem in driver_problems(card, DATA)} == codes


_AT_LEAST = [None, *map(DriverVersion, ["304.1", "450.80.02", "525.60.13", "575.51.03", "580", "590.44.01", "615"])]


@pytest.mark.parametrize(
    ("card", "at_least", "proposed"),
    [
        ("gtx1080ti", "525.60.13", "580.178.04"),
        ("gtx1080ti", "590.44.01", None),
        ("v100", None, "580.178.04"),
        ("k80", "450.80.02", "470.256.02"),
        ("k80", "525.60.13", None),
        ("t4", "595.45.04", "595.91.07"),
        ("rtx5090", "575.51.03", "580.178.04"),
        ("rtx5090", "615", "620.70.06"),
        ("rtx5090", "700", None),
        ("future", None, "580.178.04"),
    ],
)
def test_the_proposed_driver_is_of_a_supported_branch(card: str, at_least: str | None, proposed: str | None) -> None:
    (own,) = build_cards(a_profile(card, driver=None), DATA)

    assert str(proposed_driver(own, None if at_least is None else DriverVersion(at_least), DATA)) == str(proposed)


@given(name=st.sampled_from(sorted(CARDS)), at_least=st.sampled_from(_AT_LEAST))
def test_a_proposed_driver_drives_the_card_and_is_new_enough(name: str, at_least: DriverVersion | None) -> None:
    (card,) = build_cards(a_profile(name, driver=None), DATA)
    driver = proposed_driver(card, at_least, DATA)

    if driver is not None:
        assert at_least is None or driver >= at_least
        assert not driver_problems(card.model_copy(update={"driver": driver}), DATA)
        assert driver in {*DATA.supported_releases, DATA.last_driver(470)}


@pytest.mark.parametrize("name", sorted(_BY_NAME))
def test_a_driver_is_proposed_for_every_card_by_name(name: str) -> None:
    card = _planned(name, None)
    driver = proposed_driver(card, None, DATA)

    assert driver is not None
    assert not driver_problems(card.model_copy(update={"driver": driver}), DATA)


@pytest.mark.parametrize(
    ("card", "driver", "fix"),
    [
        ("v100", None, "install driver 580.178.04 with the proprietary kernel module, reboot"),
        ("k80", None, "install driver 470.256.02 with the proprietary kernel module, reboot"),
        ("rtx4090", None, "install driver 580.178.04, reboot"),
        ("rtx5060ti", "570.144", "install driver 580.178.04 with the open kernel module"),
        ("gtx1080ti", "595.58.03", "install a driver of the 580 branch, for example 580.178.04"),
    ],
)
def test_the_fix_names_a_driver_and_its_kernel_module(card: str, driver: str | None, fix: str) -> None:
    (own,) = build_cards(a_profile(card, driver=driver), DATA)

    assert all(problem.fix.startswith(fix) for problem in driver_problems(own, DATA))


@pytest.mark.parametrize("name", sorted(_BY_NAME))
def test_every_card_by_name_has_a_brand(name: str) -> None:
    assert brand_of(GpuProfile(name=name, compute_capability=ComputeCapability(_BY_NAME[name]["capability"])))
