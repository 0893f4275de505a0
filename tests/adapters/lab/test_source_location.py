"""JSON is placed by way of YAML; so whatever is JSON must be found again at the place where it stands."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.adapters.lab.source_location import read_json, read_yaml
from provisioner.domain.values.problem import ProblemError

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
KEYS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def ways(value: Any, way: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], Any]]:
    """Every place within a value, with what stands there."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(way, value)] + [found for key, below in inner for found in ways(below, (*way, key))]


@given(VALUES, st.sampled_from([None, 1, "\t"]))
def test_every_value_of_json_is_found_where_it_stands(value: Any, indent: int | str | None) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    written = read_json("f", text)
    lines = text.split("\n")
    for way, below in ways(value):
        _, line, column = written.place(way).split(":")
        rest = "\n".join([lines[int(line) - 1][int(column) - 1 :], *lines[int(line) :]])
        assert json.JSONDecoder().raw_decode(rest)[0] == below


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "f:1:1: not JSON: Expecting value"),
        ('{"a" 1}', "f:1:6: not JSON: Expecting ':' delimiter"),
        ('{"nodes": [\n  {"name": n1}]}', "f:2:12: not JSON: Expecting value"),
        ("[" * 100_000, "f:1:1: not JSON: nested too deeply"),
    ],
)
def test_no_json(text: str, what: str) -> None:
    with pytest.raises(ProblemError) as refusal:
        read_json("f", text)
    assert [problem.what for problem in refusal.value.problems] == [what]


def test_a_key_twice_in_json() -> None:
    (problem,) = read_json("f", '{"a": {\n\t"b": 1, "b": 2}}').twice
    assert problem.what == 'f:2:10: the key "b" is here twice, first in line 2'


@pytest.mark.parametrize("text", ["[" * 5000, "a: &a [*a]\n", "a: !!int x\n", "? [a]\n: 1\n", "a: 0o8\n", "\x00"])
def test_strange_yaml_is_refused_or_read_but_never_a_fault_of_ours(text: str) -> None:
    with suppress(ProblemError):
        assert read_yaml("f", text).data


def test_an_alias_is_no_key_twice() -> None:
    written = read_yaml("f", "a: &x {k: 1}\nb: *x\nc:\n  <<: *x\n  k: 2\n")
    assert (written.twice, written.data["c"]) == ((), {"k": 2})
