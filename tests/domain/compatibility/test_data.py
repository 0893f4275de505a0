import re
from datetime import date

import pytest

from provisioner.domain.compatibility.rows import NgcCard
from provisioner.domain.values.version import ComputeCapability, CudaVersion, DottedVersion, DriverVersion
from tests.domain.group import DATA, data_with


@pytest.mark.parametrize(
    ("compiled", "card", "cuda", "runs"),
    [
        (50, "5.2", "12.6", True),
        (50, "5.3", "12.6", False),
        (60, "6.1", "12.6", True),
        (61, "6.2", "12.6", False),
        (70, "7.5", "12.6", True),
        (70, "7.2", "12.6", False),
        (75, "7.0", "13.0", False),
        (80, "8.9", "12.6", True),
        (86, "8.0", "12.6", False),
        (80, "8.7", "13.0", False),
        (80, "8.7", "13.2", True),  # "CUDA 13.2 allows SBSA binaries to run on Jetson devices"
        (87, "8.7", "13.0", True),
        (87, "8.9", "13.0", False),
        (90, "9.0", "12.6", True),
        (100, "10.3", "12.8", True),
        (100, "10.1", "12.8", False),
        (103, "10.0", "13.0", False),
        (101, "11.0", "13.0", True),
        (110, "10.1", "13.0", True),
        (120, "12.1", "13.0", True),
        (121, "12.0", "13.0", False),
        (120, "10.0", "13.0", False),
        (90, "12.0", "13.0", False),
    ],
)
def test_machine_code_runs_on_a_card_by_the_rule_of_torch(compiled: int, card: str, cuda: str, runs: bool) -> None:
    assert DATA.runs([compiled], ComputeCapability(card), CudaVersion(cuda)) is runs


@pytest.mark.parametrize(
    ("driver", "cuda"),
    [
        ("580.65.06", "13.0"),
        ("580.95.05", "13.0"),
        ("575.51.02", "12.9"),  # a beta of the branch, older than the toolkit's own driver
        ("570.86.15", "12.8"),
        ("565.57.01", "12.6"),  # there is no CUDA 12.7
        ("535.183.01", "12.2"),
        ("470.256.02", "11.4"),
        ("581.57", "13.0"),  # Windows, and so WSL2
        ("620.70.06", "13.5"),
        ("999.1", "13.5"),
        ("304.1", None),
    ],
)
def test_a_driver_supports_the_cuda_of_its_branch(driver: str, cuda: str | None) -> None:
    assert DATA.cuda_of(DriverVersion(driver)) == (cuda and CudaVersion(cuda))


@pytest.mark.parametrize(
    ("cuda", "floor"),
    [
        ("13.2", "580"),
        ("13.0.2", "580"),
        ("12.9.1", "525.60.13"),
        ("11.8", "450.80.02"),
        ("11.0.3", "450.36.06"),
        ("10.2", "440.33"),
        ("14.0", None),
        ("7.5", None),
    ],
)
def test_the_driver_floor_is_that_of_the_cuda_major(cuda: str, floor: str | None) -> None:
    assert DATA.driver_floor(CudaVersion(cuda)) == (floor and DriverVersion(floor))


@pytest.mark.parametrize(
    ("driver", "branch"),
    [
        ("580.95.05", 580),
        ("580.94.10", 580),
        ("581.57", 580),  # Windows, and so WSL2
        ("582.08", 580),
        ("572.16", 570),
        ("577.00", 575),
        ("591.44", 590),
        ("596.21", 595),
        ("615.78", 615),
        ("473.81", 470),
        ("999.1", 620),
        ("304.1", 304),
    ],
)
def test_a_release_belongs_to_the_branch_at_or_below_its_number(driver: str, branch: int) -> None:
    assert DATA.branch_of(DriverVersion(driver)) == branch


def test_a_release_with_the_number_of_a_vulkan_beta_is_of_a_line_of_its_own() -> None:
    lines = {text: DATA.line_of(DriverVersion(text)) for text in ("580.82.07", "580.94.10", "580.95.05", "581.57")}

    assert lines == {"580.82.07": (580,), "580.94.10": (580, 94), "580.95.05": (580,), "581.57": (580,)}


def test_only_supported_branches_have_a_release_to_install() -> None:
    assert [DATA.branch_of(driver) for driver in DATA.supported_releases] == [580, 595, 620]
    later = data_with(version="2027-04-01+1a2b3c4d")
    assert [DATA.branch_of(driver) for driver in later.supported_releases] == [580, 620]
    assert all(driver.major == DATA.branch_of(driver) and len(driver.key) > 1 for driver in DATA.supported_releases)


@pytest.mark.parametrize(
    ("torch", "cuda"), [("2.15.0", "13.0"), ("2.16.0", "13.0"), ("2.8.0", "13.0"), ("2.12.0", "12.9")]
)
def test_an_unconfirmed_build_is_unknown(torch: str, cuda: str) -> None:
    assert DATA.build(DottedVersion(torch), CudaVersion(cuda)) is None


def test_the_rows_of_the_data_are_consistent() -> None:
    date.fromisoformat(DATA.version)
    for release in DATA.releases:
        assert all(patch.key[:2] == release.version.key for patch in release.patches)
        assert len({build.cuda for build in release.builds}) == len(release.builds)
        for build in release.builds:
            assert list(build.sm) == sorted(build.sm)
            assert set(build.ptx) <= set(build.sm)
            assert DATA.driver_floor(build.cuda) is not None
            oldest = DATA.oldest_capability(build.cuda)
            assert oldest is None or all(ComputeCapability.from_sm(sm) >= oldest for sm in build.sm)
    for row in DATA.driver_branches:
        assert {driver.major for driver in (row.beta, row.newest) if driver} <= {row.branch}
    for product in DATA.products:
        assert list(product.since) == sorted(product.since)
        assert len({DATA.line_of(first) for first in product.since}) == len(product.since)
        assert DATA.architecture(product.capability) is not None


def test_the_months_of_ngc_are_in_order_and_their_lists_can_be_read() -> None:
    months = [row.month for row in DATA.ngc]

    assert months == sorted(set(months))
    for row in DATA.ngc:
        for listed in filter(None, (row.amd64, row.arm64, row.igpu)):
            assert all(re.fullmatch(r"\d{1,2}\.\d(\+PTX)?", word) for word in listed.split()), row


@pytest.mark.parametrize("row", DATA.ngc_runs_on, ids=lambda row: f"{row.capability}-{row.platform}")
def test_a_card_on_which_ngc_images_run_is_in_every_list_of_those_months(row: NgcCard) -> None:
    for month in DATA.ngc:
        listed = month.arch_list(row.platform, integrated=False)
        if listed and row.since <= month.month <= (row.until or "99.99"):
            compiled = [round(float(word.removesuffix("+PTX")) * 10) for word in listed.split()]
            assert DATA.runs(compiled, row.capability, CudaVersion("13.0")), month


def test_machine_code_of_a_build_runs_on_the_architecture_it_names() -> None:
    for release in DATA.releases:
        for build in release.builds:
            for sm in build.sm:
                assert DATA.runs([sm], ComputeCapability.from_sm(sm), build.cuda)
