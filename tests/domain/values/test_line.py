import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.values.line import one_line


@pytest.mark.parametrize(
    ("text", "line"), [("", ""), (" a\n\tb ", "a b"), ("毕业 — 123", "毕业 — 123"), ("x" * 9, "x" * 9)]
)
def test_a_text_is_one_line_without_extra_spaces(text: str, line: str) -> None:
    assert one_line(text, 9) == line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x" * 10, "has 10 characters; the maximum is 9"),
        ("\x1b[2J", "U\\+001B"),
        ("a\u202eb", "U\\+202E"),
        ("\0", "U\\+0000"),
    ],
)
def test_what_is_long_or_not_printable_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one_line(text, 9)


@given(st.text(max_size=20))
def test_an_accepted_line_is_accepted_unchanged(text: str) -> None:
    try:
        line = one_line(text, 9)
    except ValueError:
        return
    assert (one_line(line, 9), len(line) <= 9, line.isprintable()) == (line, True, True)
