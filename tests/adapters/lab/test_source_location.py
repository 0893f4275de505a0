"""JSON is placed by way of YAML; so whatever is JSON must be found again at the place where it stands."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.adapters.lab.source_location import HALF_A_PAIR, read_json, read_yaml
from provisioner.domain.values.problem import ProblemError

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
KEYS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def locations(value: Any, loc: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], Any]]:
    """Return every location within a value with the value at it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(loc, value)] + [found for key, child in inner for found in locations(child, (*loc, key))]


@given(VALUES, st.sampled_from([None, 1, "\t"]))
def test_every_value_of_json_is_located_at_its_line_and_column(value: Any, indent: int | str | None) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    document = read_json("f", text)
    lines = text.split("\n")
    for loc, child in locations(value):
        _, line, column = document.place(loc).split(":")
        rest = "\n".join([lines[int(line) - 1][int(column) - 1 :], *lines[int(line) :]])
        assert json.JSONDecoder().raw_decode(rest)[0] == child


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "f:1:1: not JSON: Expecting value"),
        ('{"a" 1}', "f:1:6: not JSON: Expecting ':' delimiter"),
        ('{"nodes": [\n  {"name": n1}]}', "f:2:12: not JSON: Expecting value"),
        ("[" * 100_000, "f:1:1: not JSON: nested too deeply"),
    ],
)
def test_invalid_json_is_refused_with_its_place(text: str, what: str) -> None:
    with pytest.raises(ProblemError) as refusal:
        read_json("f", text)
    assert [problem.what for problem in refusal.value.problems] == [what]


def test_a_duplicate_key_in_json_is_reported() -> None:
    (problem,) = read_json("f", '{"a": {\n\t"b": 1, "b": 2}}').duplicates
    assert problem.what == 'f:2:10: the key "b" is here twice, first in line 2'


@pytest.mark.parametrize("text", ["[" * 5000, "a: &a [*a]\n", "a: !!int x\n", "? [a]\n: 1\n", "a: 0o8\n", "\x00"])
def test_unusual_yaml_is_read_or_refused_with_a_problem_error(text: str) -> None:
    with suppress(ProblemError):
        assert read_yaml("f", text).data


def test_an_alias_or_merge_is_not_a_duplicate_key() -> None:
    document = read_yaml("f", "a: &x {k: 1}\nb: *x\nc:\n  <<: *x\n  k: 2\n")
    assert (document.duplicates, document.data["c"]) == ((), {"k": 2})


def test_a_character_that_yaml_escapes_as_json_does_is_read_and_half_of_it_is_refused() -> None:
    assert read_yaml("f", r'"\ud83d\ude00"').data == "\U0001f600"
    with pytest.raises(ProblemError) as refusal:
        read_yaml("f", 'a: 1\nb: "x\\ud83d"\n')
    assert [problem.what for problem in refusal.value.problems] == [f"f:2:4: not YAML: {HALF_A_PAIR}"]


@pytest.mark.parametrize("key", ["no", "2026", "010", "2.10", "~", "1:30", "=", "0x1f", "2026-01-31"])
def test_a_key_is_the_text_that_is_written(key: str) -> None:
    document = read_yaml("f", f"{key}: {{{key}: 1}}\n")
    assert (document.data, document.duplicates) == ({key: {key: 1}}, ())
    assert document.place((key, key)) == f"f:1:{2 * len(key) + 6}"


SCALARS = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), max_size=8)


@given(st.sampled_from(["int", "float", "bool", "null", "timestamp", "binary", "str", "value", "merge", "x"]), SCALARS)
def test_any_value_of_any_type_is_read_or_refused_with_its_place(kind: str, value: str) -> None:
    quoted = value.replace("'", "''")
    places = []
    try:
        read_yaml("f", f"a: !!{kind} '{quoted}'\n")
    except ProblemError as refusal:
        places = [problem.what[:7] for problem in refusal.problems]
    assert places in ([], ["f:1:4: "])


@pytest.mark.parametrize("number", ["9" * 5000, f"0x{'f' * 9000}", "1" + ":59" * 3000, "9" * 20])
def test_a_number_that_no_message_can_show_is_refused_with_its_place(number: str) -> None:
    with pytest.raises(ProblemError) as refusal:
        read_yaml("f", f"a: {number}\n")
    assert [problem.what for problem in refusal.value.problems] == ["f:1:4: not YAML: too large a number"]
