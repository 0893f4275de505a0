import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.values.duration import format_duration, parse_duration

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@given(st.integers(0, 999_999), st.sampled_from(sorted(UNITS)))
def test_a_duration_is_its_number_times_its_unit_and_survives_formatting(number: int, unit: str) -> None:
    seconds = parse_duration(f"{number}{unit}")
    assert seconds == number * UNITS[unit]
    assert parse_duration(format_duration(seconds)) == seconds
    assert len(format_duration(seconds)) <= len(f"{number}{unit}")


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("1h30m", 5400), ("1h05m", 3900), ("2d1s", 172_801), ("1d1h1m1s", 90_061)]
)
def test_larger_units_come_first_and_add_up(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@given(st.text(max_size=8))
def test_text_that_is_not_numbers_with_units_is_refused(text: str) -> None:
    if text and re.fullmatch(r"(\d{1,6}d)?(\d{1,6}h)?(\d{1,6}m)?(\d{1,6}s)?", text, re.ASCII):
        return
    with pytest.raises(ValueError, match=r"^invalid duration .*: write it like 90s, 30m, 2h, 1h30m or 3d$"):
        parse_duration(text)


@pytest.mark.parametrize(
    "text",
    ["", "2", "h", "-2h", "2 h", "1.5h", "2H", "२h", "2h\n", "soon", "30m1h", "1h1h", "1h30", "1234567s"],
)
def test_malformed_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        parse_duration(text)
