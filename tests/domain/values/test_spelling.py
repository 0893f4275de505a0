import pytest

from provisioner.domain.values.spelling import did_you_mean


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [("stuff", '; did you mean "staff"?'), ("guest", ""), ("", ""), ("staff" * 100_000, "")],
)
def test_the_closest_known_word(wrong: str, expected: str) -> None:
    assert did_you_mean(wrong, ["student", "staff"]) == expected
