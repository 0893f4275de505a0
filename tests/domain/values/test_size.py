"""Sizes as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.values.size import binary_size, size_bytes

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
counts = st.integers(0, 60).flatmap(lambda bits: st.integers(0, 1 << bits))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1 << 20, "1 MiB"),
        ((1 << 20) - 1, "1023.9 KiB"),
        (100 << 30, "100 GiB"),
        ((100 << 30) - 1, "99.9 GiB"),
        (1536 << 30, "1.5 TiB"),
        (1 << 60, "1 EiB"),
    ],
)
def test_size_in_powers_of_1024(count: int, text: str) -> None:
    assert binary_size(count) == text


def lowest(text: str) -> float:
    """Return the least number of bytes that the text stands for."""
    number, unit = text.split()
    return float(number) * 1024.0 ** _UNITS.index(unit)


@given(counts)
def test_the_text_is_short_never_more_than_the_size_and_less_than_a_tenth_of_a_unit_below(count: int) -> None:
    text = binary_size(count)
    assert lowest(text) <= count < lowest(text) + 1024 ** _UNITS.index(text.split()[1]) / 10 + (count < 1024)
    assert len(text) <= len("1023.9 KiB")


@given(counts, counts)
def test_what_is_below_a_limit_never_reads_as_more_than_it(one: int, other: int) -> None:
    assert lowest(binary_size(min(one, other))) <= lowest(binary_size(max(one, other)))


def test_a_limit_reads_as_it_is_written() -> None:
    assert [binary_size(size_bytes(size)) for size in ("512m", "100g", "2048g")] == ["512 MiB", "100 GiB", "2 TiB"]
