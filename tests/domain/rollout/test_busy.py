import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from provisioner.domain.rollout.busy import WhenBusy, length_of, length_text, when_busy

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@given(st.integers(1, 999_999), st.sampled_from(sorted(UNITS)))
def test_a_length_is_its_number_times_its_unit_and_survives_its_own_text(number: int, unit: str) -> None:
    seconds = length_of(f"{number}{unit}")
    assert seconds == number * UNITS[unit]
    assert length_of(length_text(seconds)) == seconds
    assert len(length_text(seconds)) <= len(f"{number}{unit}")


@given(st.text(max_size=8))
def test_no_other_text_is_a_length(text: str) -> None:
    number, unit = text[:-1], text[-1:]
    if unit in UNITS and number.isascii() and number.isdigit() and number[0] != "0" and len(number) <= 6:
        return
    with pytest.raises(ValueError, match="is no duration such as"):
        length_of(text)


@pytest.mark.parametrize("text", ["", "2", "h", "0h", "-2h", "2 h", "2h30m", "1.5h", "2H", "२h", "2h\n"])
def test_lengths_that_a_person_might_try(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        length_of(text)


@pytest.mark.parametrize(
    ("text", "reason", "expected"),
    [
        ("defer", "", WhenBusy()),
        ("wait:2h", "", WhenBusy(policy="wait", seconds=7200)),
        ("force", "exam at noon", WhenBusy(policy="force", reason="exam at noon")),
    ],
)
def test_what_may_be_said(text: str, reason: str, expected: WhenBusy) -> None:
    assert when_busy(text, reason) == expected
    assert WhenBusy.model_validate_json(expected.model_dump_json()) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("force", "needs a reason"),
        ("force:now", "none of defer"),
        ("wait", "is no duration"),
        ("wait:", "is no duration"),
        ("ask", "none of defer"),
        ("defer:2h", "none of defer"),
        ("", "none of defer"),
    ],
)
def test_what_may_not(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        when_busy(text)


@pytest.mark.parametrize(
    "fields",
    [{"policy": "force"}, {"policy": "wait"}, {"seconds": 5}, {"reason": "x"}, {"policy": "force", "seconds": 5}],
)
def test_a_consent_without_its_half_is_no_value_at_all(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        WhenBusy.model_validate(fields)
