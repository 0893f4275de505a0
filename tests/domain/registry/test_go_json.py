"""JSON as Go reads it: names in any case, the last of several, null as absent, and no constants that JSON lacks."""

import json
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from provisioner.domain.registry.go_json import GoStruct, Time, WholeNumber, read_object


class Small(GoStruct):
    size: WholeNumber = 0
    media_type: str = Field(default="", alias="mediaType")
    made: Time | None = None
    names: Annotated[tuple[str, ...], Field(max_length=2)] = ()


def read(text: str) -> Small:
    return Small.model_validate(read_object(text.encode("utf-8", "surrogateescape")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"size":5,"mediaType":"x"}', Small(size=5, mediaType="x")),
        ('{"SIZE":5,"mediatype":"x"}', Small(size=5, mediaType="x")),
        ('{"\u017fize":5}', Small(size=5)),  # the long s is one of s, as in Go
        ('{"size":1,"Size":2,"size":3}', Small(size=3)),
        ('{"size":1,"size":3,"Size":2}', Small(size=2)),
        ('{"size":null,"mediaType":null,"names":null}', Small()),
        ('{"other":{"size":1}}', Small()),
        ('{"mediaType":"a\udcffb"}', Small(mediaType="a\ufffdb")),
        ('{"made":"2026-11-30T12:00:00.123456789Z"}', Small(made="2026-11-30T12:00:00.123456789Z")),
        ('{"made":"2026-11-30T12:00:00+08:00"}', Small(made="2026-11-30T12:00:00+08:00")),
    ],
)
def test_what_go_reads_is_read(text: str, expected: Small) -> None:
    assert read(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "null",
            "[]",
            "5",
            '{"size":5} x',
            '{"x":NaN}',
            '{"x":-Infinity}',
            "{'size':5}",
            "\ufeff{}",
            "[" * 100_000,
        ),
        *('{"size":"5"}', '{"size":5.0}', '{"size":true}', '{"size":9223372036854775808}', '{"mediaType":5}'),
        *('{"made":""}', '{"made":"yesterday"}', '{"made":"2026-11-30T12:00:00"}', '{"names":"a"}', '{"names":[5]}'),
    ],
)
def test_what_go_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read(text)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.text(max_size=2))


@given(st.dictionaries(st.sampled_from(["size", "Size", "mediaType", "made", "names", "x"]), VALUES))
def test_any_object_is_read_or_refused(document: dict[str, Any]) -> None:
    try:
        found = Small.model_validate(read_object(json.dumps(document).encode()))
    except (ValueError, ValidationError):
        return
    last = [value for name, value in document.items() if name.casefold() == "size" and value is not None]
    assert found.size == (last[-1] if last else 0)
