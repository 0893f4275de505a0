from typing import Any

import pytest

from provisioner.domain.compatibility.gpu import build_cards, driver_problems, proposed_driver
from provisioner.domain.compatibility.overlay import Overlay, apply_overlay
from provisioner.domain.selection.selection import select
from provisioner.domain.values.version import ComputeCapability, CudaVersion, DottedVersion, DriverVersion
from tests.domain.group import DATA, a_profile, a_tag


def _with(**blocks: list[dict[str, Any]]) -> Overlay:
    sourced = {
        name: [row if name == "releases" else {"source": "a test", **row} for row in rows]
        for name, rows in blocks.items()
    }
    return Overlay.model_validate(sourced)


def test_an_overlay_adds_and_replaces_builds() -> None:
    own = {"cuda": "13.0", "sm": [70, 75], "evidence": "measured(2.14.1)"}
    data = apply_overlay(
        DATA, _with(releases=[{"version": "2.14", "builds": [own]}, {"version": "2.16", "builds": [own]}])
    )

    for torch in ("2.14.1", "2.16.0"):
        build = data.build(DottedVersion(torch), CudaVersion("13.0"))
        assert build is not None
        assert build.sm == (70, 75)
    kept, before = (one.build(DottedVersion("2.14.1"), CudaVersion("12.6")) for one in (data, DATA))
    assert kept == before
    assert [row.replaced for row in data.own] == [True, False]


def test_a_build_added_by_a_lab_can_be_chosen() -> None:
    own = {"cuda": "13.2", "sm": [75, 120], "evidence": "measured(2.16.0)"}
    data = apply_overlay(DATA, _with(releases=[{"version": "2.16", "builds": [own]}]))
    node, tags = (
        a_profile("rtx5090"),
        [a_tag("2.16.0-cuda13.2-cudnn9-runtime"), a_tag("2.14.1-cuda13.0-cudnn9-runtime")],
    )

    assert select([node], tags, DATA).torch == "2.14.1"
    chosen = select([node], tags, data)
    assert (chosen.torch, chosen.data_version) == ("2.16.0", data.version)


@pytest.mark.parametrize(
    ("cuda", "floor"), [("13.2", "585.10"), ("13.0", "580"), ("14.1", "640.1"), ("11.0.3", "450.36.06")]
)
def test_the_most_specific_driver_floor_counts(cuda: str, floor: str) -> None:
    own = [{"cuda": "13.2", "driver": "585.10"}, {"cuda": "14", "driver": "640.1"}]

    assert apply_overlay(DATA, _with(driver_floors=own)).driver_floor(CudaVersion(cuda)) == DriverVersion(floor)


def test_an_own_architecture_replaces_the_compute_capabilities_it_names() -> None:
    own = {"name": "Turing of ours", "capabilities": ["7.5", "13.0"], "last_branch": 610}
    data = apply_overlay(DATA, _with(architectures=[own]))
    found = {text: data.architecture(ComputeCapability(text)) for text in ("7.5", "13.0", "7.0")}

    assert [architecture and architecture.last_branch for architecture in found.values()] == [610, 610, 580]


def test_a_product_is_replaced_by_its_name_and_capability() -> None:
    own = {"name": "RTX 5060 Ti", "capability": "12.0", "min_driver": "570.153.02"}
    data = apply_overlay(DATA, _with(products=[own]))
    rows = [row for row in data.products_of(ComputeCapability("12.0")) if row.name == "RTX 5060 Ti"]

    assert [row.since for row in rows] == [(DriverVersion("570.153.02"),)]
    assert len(data.products) == len(DATA.products)


@pytest.mark.parametrize(
    ("row", "driver", "ok"),
    [
        ({"min_driver": "570.153.02"}, "570.148.08", False),
        ({"min_driver": "570.153.02"}, "570.153.02", True),
        ({"min_driver": "570.153.02"}, "575.51.02", True),
        ({"since": ["570.153.02", "580.65.06"]}, "575.51.02", False),
        ({"since": ["580.65.06"], "min_driver": "570.153.02"}, "570.153.02", True),
        ({"open_module": "supported"}, "570.86.16", True),  # its architecture's floor
    ],
)
def test_an_own_product_may_have_one_floor_or_one_for_each_branch(row: dict[str, Any], driver: str, ok: bool) -> None:
    data = apply_overlay(DATA, _with(products=[{"name": "RTX 5060 Ti", "capability": "12.0", **row}]))
    (card,) = build_cards(a_profile("rtx5060ti", driver=driver), data)

    assert (not driver_problems(card, data)) is ok


def test_an_own_branch_is_the_one_that_is_proposed() -> None:
    own = {"branch": 595, "newest": "595.99.01", "until": "2027-03-31"}
    data = apply_overlay(DATA, _with(driver_branches=[own]))
    (card,) = build_cards(a_profile("rtx5090", driver=None), data)

    assert proposed_driver(card, DriverVersion("590"), data) == DriverVersion("595.99.01")


def test_own_rows_of_ngc_devel_and_toolkit_blocks_are_merged() -> None:
    data = apply_overlay(
        DATA,
        _with(
            ngc=[{"month": "26.07", "cuda": "13.2"}],
            ngc_runs_on=[{"capability": "12.1", "platform": "linux/arm64", "since": "26.07"}],
            devel_requires=[{"cuda": "12.6", "branches": [560], "brands": ["geforce"]}],
            toolkit_drivers=[{"cuda": "13.4", "drivers": ["615.10.01"]}],
        ),
    )
    month = data.ngc_month("26.07")

    assert month is not None
    assert month.cuda == CudaVersion("13.2")
    assert [row.since for row in data.ngc_runs_on if row.capability == ComputeCapability("12.1")] == ["26.07"]
    assert len(data.ngc_runs_on) == len(DATA.ngc_runs_on)
    assert [row.branches for row in data.devel_requires if row.cuda == CudaVersion("12.6")] == [(560,)]
    assert data.toolkit_driver(CudaVersion("13.4")) == DriverVersion("615.10.01")


def test_an_empty_overlay_returns_the_same_data() -> None:
    assert apply_overlay(DATA, Overlay()) is DATA
