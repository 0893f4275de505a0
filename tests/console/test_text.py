import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.console.text import count, fold_names, human_duration, safe_block, safe_line

NAMES = st.lists(
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["n", "pc", "gpu-", "10.0.0.", ""]),
        st.one_of(st.integers(0, 120).map(str), st.integers(0, 120).map("{:03}".format), st.just("")),
        st.sampled_from(["", "a", ".lab"]),
    ).filter(bool),
    max_size=40,
)


def unfold(text: str) -> list[str]:
    """Unfold as Slurm's `scontrol show hostnames` does."""
    names = []
    for word in text.split(" ") if text else []:
        parts = re.fullmatch(r"(.*?)\[([\d,-]+)\](.*)", word)
        if parts is None:
            names.append(word)
            continue
        for run in parts[2].split(","):
            first, _, last = run.partition("-")
            numbers = range(int(first), int(last or first) + 1)
            names += [f"{parts[1]}{str(number).zfill(len(first))}{parts[3]}" for number in numbers]
    return names


@given(NAMES)
def test_folding_keeps_exactly_the_given_names(names: list[str]) -> None:
    assert unfold(fold_names(names)) == list(dict.fromkeys(names))


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        ([f"pc{number:03}" for number in range(1, 201)], "pc[001-200]"),
        (["n1", "n2", "n4", "web", "n5"], "n[1-2,4] web n5"),
        (["gpu01.lab.edu", "gpu02.lab.edu"], "gpu[01-02].lab.edu"),
        (["a09", "a10", "a011"], "a[09-10,011]"),
        ([], ""),
    ],
)
def test_folded_names(names: list[str], folded: str) -> None:
    assert fold_names(names) == folded


@given(st.text())
def test_control_characters_are_escaped_in_any_text(text: str) -> None:
    safe = safe_line(text)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", safe)
    assert safe.encode().decode() == safe
    assert not re.search("[\x00-\x08\x0b-\x1f]", safe_block(text))


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("half \ud83d of a pair", "half \\ud83d of a pair"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("实验室 ä", "实验室 ä"),
    ],
)
def test_escapes_of_unsafe_characters(text: str, safe: str) -> None:
    assert safe_line(text) == safe


def test_a_block_keeps_line_feeds_and_tabs() -> None:
    assert safe_block("a\n\tb\x07") == "a\n\tb\\x07"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (185, "3:05 min"), (3723, "1:02:03 h")]
)
def test_human_duration(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_count_with_its_noun() -> None:
    assert [count(number, noun) for number, noun in product((0, 1, 2), ("node",))] == ["0 nodes", "1 node", "2 nodes"]
