"""The tables of a selection at the width of a terminal: nothing is wider, and no node and no tag is left out."""

import io
import re
from collections.abc import Iterator, Sequence

import pytest
from rich.cells import cell_len
from rich.console import Console

from provisioner.adapters.lab.compatibility_data import load
from provisioner.console.selection import selection_view
from provisioner.console.short_tags import shorten_tags
from provisioner.console.text import fold_names
from provisioner.domain.selection.selection import Selection, select
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.node import NodeProfile
from provisioner.domain.values.sync import SyncState
from tests.console.screen import golden_text, render_text

WIDTH = 80
CARDS = [  # name, compute capability, driver, kernel module
    ("NVIDIA GeForce RTX 5090", "12.0", "580.95.05", "open"),
    ("NVIDIA GeForce RTX 5090", "12.0", "570.172.08", "open"),
    ("NVIDIA GeForce RTX 4090", "8.9", "550.127.05", "proprietary"),
    ("NVIDIA GeForce RTX 3090", "8.6", "535.183.01", "proprietary"),
    ("NVIDIA GeForce RTX 2080 Ti", "7.5", "580.95.05", "proprietary"),
    ("Tesla V100-SXM2-32GB", "7.0", "535.104.05", "proprietary"),
    ("NVIDIA GeForce GTX 1080 Ti", "6.1", "550.127.05", "proprietary"),
    ("NVIDIA GeForce RTX 4090", "8.9", "470.82.01", "proprietary"),
]
MAKES = [
    *("2.14.0-cuda13.2", "2.14.0-cuda12.6", "2.12.0-cuda13.0", "2.12.0-cuda12.6", "2.10.0-cuda12.8"),
    *("2.9.1-cuda13.0", "2.9.1-cuda12.8", "2.8.0-cuda12.9", "2.8.0-cuda12.8", "2.8.0-cuda12.6"),
    *("2.7.1-cuda12.6", "2.6.0-cuda12.4"),
]
MORE = [f"2.{minor}.0-cuda{cuda}" for minor in (13, 11, 5, 4, 3, 2, 1) for cuda in ("12.1", "12.4", "12.6", "13.0")]


def image(
    make: str, sync: SyncState = SyncState.COMPLETE, repository: str = "mirror.lab:5200/pytorch/pytorch"
) -> TaggedImage:
    return TaggedImage(reference=f"{repository}:{make}-cudnn9-runtime", sync=sync)


def node(name: str, number: int) -> NodeProfile:
    card, capability, driver, module = CARDS[number]
    gpus = [{"name": card, "compute_capability": capability}]
    return NodeProfile.model_validate({"name": name, "driver": driver, "kernel_module": module, "gpus": gpus})


def a_lab(nodes: int, makes: Sequence[str], prefix: str = "pc") -> Selection:
    """Nodes of eight kinds, a fifth of them in pairs; one tag is incomplete on the mirror."""
    profiles = [node(f"{prefix}{number:03}", number * 7 // 5 % len(CARDS)) for number in range(1, nodes + 1)]
    images = [image(make, SyncState.PARTIAL if make == "2.9.1-cuda12.8" else SyncState.COMPLETE) for make in makes]
    return select(profiles, images, load())


def rows(lines: Sequence[str], head: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the tables under this head, and the head itself first."""
    for start, line in enumerate(lines):
        if line.split()[:1] != [head] or "  " not in line:
            continue
        begins = [match.start() for match in re.finditer(r"(?<=  )\S|^\S", line)]
        ends = [*begins[1:], None]
        for row in [line, *lines[start + 2 :]]:
            if not row.strip():
                break
            yield [row[begin:end].strip() for begin, end in zip(begins, ends, strict=True)]


def compact(text: str) -> str:
    return "".join(text.split())


def expected_groups(selection: Selection) -> dict[tuple[object, ...], list[str]]:
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, choice in selection.nodes.items():
        codes = [tuple(dict.fromkeys(p.code for p in verdict.problems)) for verdict in choice.verdicts.values()]
        groups.setdefault((choice.tag, *codes), []).append(name)
    return groups


@pytest.mark.parametrize(
    ("nodes", "makes", "prefix"),
    [
        (40, MAKES, "pc"),
        (200, [*MAKES, *MORE], "pc"),
        (40, MAKES, "节点"),
        (1, MAKES[:1], "n"),
        (40, MAKES, "gpu-node-of-the-lab-"),
    ],
)
def test_every_node_and_every_tag_is_shown_within_80_columns(nodes: int, makes: list[str], prefix: str) -> None:
    selection = a_lab(nodes, makes, prefix)
    lines = render_text(selection_view(selection, WIDTH), WIDTH).splitlines()
    assert max(map(cell_len, lines)) <= WIDTH
    short = shorten_tags([image(make).reference for make in makes]).names
    groups = list(expected_groups(selection).items())
    names = compact("".join(row[-1] for row in rows(lines, "group")))
    assert all(compact(fold_names(members)) in names for _, members in groups)
    shown: dict[str, list[str]] = {}
    for row in rows(lines, "tag"):
        shown.setdefault(row[0], []).extend(row[1:])
    letters = shown.pop("tag")
    assert len(letters) == len(set(letters)) == len(groups)
    assert set(shown) == set(short.values())
    codes = {row[0]: row[1] for row in rows([f"0{line[1:]}" if "reason" in line else line for line in lines], "0")}
    for place, ((chosen, *_), members) in enumerate(groups):
        for reference, verdict in selection.nodes[members[0]].verdicts.items():
            cell = shown[short[reference]][place]
            if reference == chosen:
                assert cell == "chosen"
            elif verdict.ok:
                assert cell == ("fits !" if verdict.cautions else "fits")
            else:
                assert {codes[number] for number in cell.split()} == {problem.code for problem in verdict.problems}


def test_the_tables_of_forty_nodes_and_twelve_tags() -> None:
    text = render_text(selection_view(a_lab(40, MAKES), WIDTH), WIDTH)
    tables = text.partition("\n╷")[0].strip("\n")
    assert tables == golden_text("selection_40")


def test_tags_are_shown_newest_first_whatever_their_order() -> None:
    text = [render_text(selection_view(a_lab(8, makes), WIDTH), WIDTH) for makes in (MAKES, MAKES[::-1])]
    assert text[0] == text[1]
    names = [row[0] for row in rows(text[0].splitlines(), "tag")]
    assert names == ["tag", *shorten_tags([image(make).reference for make in MAKES]).names.values()]


def test_many_different_nodes_are_shown_in_further_tables() -> None:
    cards = ((capability, driver) for capability in ("8.0", "8.6", "8.9", "9.0") for driver in range(525, 585, 5))
    profiles = [
        NodeProfile.model_validate(
            {
                "name": f"n{number}",
                "driver": f"{driver}.60.13",
                "kernel_module": "open",
                "gpus": [{"name": f"NVIDIA card {number}", "compute_capability": capability}],
            }
        )
        for number, (capability, driver) in enumerate(cards)
    ]
    images = [image(make, list(SyncState)[at % len(SyncState)]) for at, make in enumerate(MAKES)]
    selection = select(profiles, images, load())
    for width in (24, 40, WIDTH):
        lines = render_text(selection_view(selection, width), width).splitlines()
        assert max(map(cell_len, lines)) <= width
        letters = [cell for row in rows(lines, "tag") if row[0] == "tag" for cell in row[1:]]
        assert len(letters) == len(expected_groups(selection))


@pytest.mark.parametrize(
    ("prefix", "encoding", "escaped"), [("pc", "ascii", 0), ("节点", "ascii", 1), ("节点", "gbk", 0)]
)
def test_a_terminal_without_unicode_and_without_colour_shows_the_same_words(
    prefix: str, encoding: str, escaped: bool
) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace")
    console = Console(file=stream, width=WIDTH, no_color=True, force_terminal=True, legacy_windows=False)
    console.print(selection_view(a_lab(40, MAKES, prefix), WIDTH), crop=False)
    stream.flush()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", raw.getvalue().decode(encoding))
    assert ("\\u8282\\u70b9[" in plain) is bool(escaped)
    assert max(map(cell_len, plain.splitlines())) <= WIDTH
    assert {"chosen", "fits", "1"} <= set(plain.split())


@pytest.mark.parametrize(
    ("references", "names"),
    [
        (["m/p:2.8.0-cuda12.8-cudnn9-runtime", "m/p:2.7.1-cuda11.8-cudnn9-runtime"], ["2.8.0 cu128", "2.7.1 cu118"]),
        (["m/p:2.8.0-cuda12.8-cudnn9-devel"], ["2.8.0 cu128"]),
        (
            ["m/p:2.8.0-cuda12.8-cudnn9-devel", "m/p:2.8.0-cuda12.8-cudnn9-runtime"],
            ["2.8.0 cu128 devel", "2.8.0 cu128 runtime"],
        ),
        (
            ["m/p:2.1.0-cuda12.1-cudnn8-runtime", "m/p:2.6-cuda12.4-cudnn9-runtime"],
            ["2.1.0 cu121 cudnn8", "2.6 cu124 cudnn9"],
        ),
        (
            ["m/p:2.0.0-cuda12.10-cudnn9-runtime", "m/p:2.0.0-cuda12.1.0-cudnn9-runtime"],
            ["2.0.0 cu12.10", "2.0.0 cu12.1.0"],
        ),
        (
            ["m:5/pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime", "m:5/nvidia/pytorch:25.06-py3"],
            ["pytorch/pytorch:2.8.0 cu128", "nvidia/pytorch:25.06-py3"],
        ),
        (["pytorch/pytorch:latest", "pytorch/pytorch:v2.9"], ["latest", "v2.9"]),
        (["a:1", "b:1"], ["a:1", "b:1"]),
        (["localhost:5000/x/y", "localhost:5000/x/y:1"], ["localhost:5000/x/y", "1"]),
        (["m/p@sha256:" + "a" * 64], ["m/p@sha256:" + "a" * 64]),
        (["m/p:1\x1b[2J"], ["1\\x1b[2J"]),
        ([""], [""]),
        (
            ["m/p:2.8.0 cu128", "m/p:2.8.0-cuda12.8-cudnn9-runtime"],
            ["m/p:2.8.0 cu128", "m/p:2.8.0-cuda12.8-cudnn9-runtime"],
        ),
    ],
)
def test_short_names_of_tags(references: list[str], names: list[str]) -> None:
    assert list(shorten_tags(references).names.values()) == names
