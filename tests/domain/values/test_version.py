import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.values.model import Value
from provisioner.domain.values.version import ComputeCapability, CudaVersion, DriverVersion

numbers = st.lists(st.integers(0, 999), min_size=1, max_size=4)


class Holder(Value):
    driver: DriverVersion


def test_the_text_is_kept_with_its_zeros() -> None:
    assert Holder.model_validate({"driver": "450.80.02"}).model_dump_json() == '{"driver":"450.80.02"}'


@pytest.mark.parametrize(
    ("older", "newer"), [("450.80.02", "450.80.10"), ("9.1", "10.0"), ("580", "580.65.06"), ("570.172.08", "580")]
)
def test_order_is_by_number(older: str, newer: str) -> None:
    assert DriverVersion(older) < DriverVersion(newer)


@pytest.mark.parametrize("text", ["", "12.", ".8", "12.8a", "v12", "12..8", " 12", "-1"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a version"):
        CudaVersion(text)


@pytest.mark.parametrize(("sm", "text"), [(50, "5.0"), (86, "8.6"), (100, "10.0"), (121, "12.1")])
def test_an_architecture_number_is_a_capability(sm: int, text: str) -> None:
    assert ComputeCapability.from_sm(sm) == ComputeCapability(text)


@given(numbers, numbers)
def test_versions_order_as_their_numbers_do(left: list[int], right: list[int]) -> None:
    a, b = (CudaVersion(".".join(map(str, parts))) for parts in (left, right))
    assert (a < b, a == b) == (left < right, left == right)


def test_a_driver_is_never_equal_to_a_toolkit() -> None:
    assert DriverVersion("12.8") != CudaVersion("12.8")
