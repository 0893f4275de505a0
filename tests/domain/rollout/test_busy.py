import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from provisioner.domain.rollout.busy import WhenBusy, when_busy
from provisioner.domain.values.duration import format_duration, parse_duration

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@given(st.integers(1, 999_999), st.sampled_from(sorted(UNITS)))
def test_wait_takes_a_number_and_a_unit_and_its_text_is_read_back(number: int, unit: str) -> None:
    seconds = when_busy(f"wait:{number}{unit}").seconds
    assert seconds == number * UNITS[unit]
    assert parse_duration(format_duration(seconds)) == seconds
    assert len(format_duration(seconds)) <= len(f"{number}{unit}")


@given(st.text(max_size=8))
def test_wait_refuses_every_other_text(text: str) -> None:
    number, unit = text[:-1], text[-1:]
    if unit in UNITS and number.isascii() and number.isdigit() and number[0] != "0" and len(number) <= 6:
        return
    with pytest.raises(ValueError, match="invalid duration"):
        when_busy(f"wait:{text}")


@pytest.mark.parametrize("text", ["", "2", "h", "0h", "-2h", "2 h", "2h30m", "1.5h", "2H", "२h", "2h\n"])
def test_wait_refuses_common_mistakes(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        when_busy(f"wait:{text}")


@pytest.mark.parametrize(
    ("text", "reason", "expected"),
    [
        ("defer", "", WhenBusy()),
        ("wait:2h", "", WhenBusy(policy="wait", seconds=7200)),
        ("force", "exam at noon", WhenBusy(policy="force", reason="exam at noon")),
    ],
)
def test_policies_are_parsed(text: str, reason: str, expected: WhenBusy) -> None:
    assert when_busy(text, reason) == expected
    assert WhenBusy.model_validate_json(expected.model_dump_json()) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("force", "needs a reason"),
        ("force:now", "none of defer"),
        ("wait", "invalid duration"),
        ("wait:", "invalid duration"),
        ("ask", "none of defer"),
        ("defer:2h", "none of defer"),
        ("", "none of defer"),
    ],
)
def test_invalid_policies_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        when_busy(text)


@pytest.mark.parametrize(
    "fields",
    [{"policy": "force"}, {"policy": "wait"}, {"seconds": 5}, {"reason": "x"}, {"policy": "force", "seconds": 5}],
)
def test_policy_requires_its_field_and_refuses_others(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        WhenBusy.model_validate(fields)
