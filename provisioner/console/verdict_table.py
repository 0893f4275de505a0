"""The verdicts of a selection as tables: groups of equal nodes, every tag against every group, and the reasons.

A tag is a row, because a lab has more tags than kinds of nodes. Where the groups do not fit beside the tags within the
width, the others are in a further table. "fits !" is a tag that runs with a caution.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from provisioner.console.short_tags import shorten_tags
from provisioner.console.tables import cell, make_table
from provisioner.console.text import count, fold_names
from provisioner.domain.selection.selection import NodeChoice, Selection

_GIVEN, _FITS, _CAUTION, _NOT_JUDGED = "chosen", "fits", "fits !", "?"
_GAP = 3  # columns between two columns of a table
_MIN_TAG = 12  # columns, however long the names of the tags are

Codes = tuple[str, ...]  # of the reasons why a tag is refused


class NodeGroup(NamedTuple):
    """Nodes with the same tag and the same reasons against each of the others. `cells`: in the order of the tags."""

    letter: str
    nodes: tuple[str, ...]
    tag: str | None
    cells: tuple[str | Codes, ...]


class Reason(NamedTuple):
    """A code, what was seen first under it, and the nodes and tags that it concerns."""

    code: str
    example: str
    nodes: set[str]
    tags: set[str]


def verdict_tables(selection: Selection, width: int) -> Iterator[RenderableType]:
    """Yield the tables. `width` in columns, not exceeded; nothing for a selection without nodes."""
    tags = list(dict.fromkeys(tag for choice in selection.nodes.values() for tag in choice.verdicts))
    groups, reasons = _groups(selection, tags), _reasons(selection, tags)
    if not groups:
        return
    short = shorten_tags(tags)
    yield _group_table(groups, short.names)
    if not tags:
        return
    numbers = {code: str(number) for number, code in enumerate(reasons, 1)}
    yield Text(f"\n{short.note}\n")
    for shown in _blocks(groups, short.names, numbers, width):
        yield _tag_table(shown, [short.names[tag] for tag in tags], numbers)
        yield Text()
    if reasons:
        yield _reason_table(reasons.values(), numbers)


def _groups(selection: Selection, tags: Sequence[str]) -> list[NodeGroup]:
    """Group equal nodes, in the order of their first names."""
    groups: dict[tuple[str | None, tuple[str | Codes, ...]], list[str]] = {}
    for name, choice in selection.nodes.items():
        groups.setdefault((choice.tag, tuple(_cell(choice, tag) for tag in tags)), []).append(name)
    return [
        NodeGroup(_letters(number), tuple(names), tag, cells)
        for number, ((tag, cells), names) in enumerate(groups.items())
    ]


def _cell(choice: NodeChoice, tag: str) -> str | Codes:
    if choice.tag == tag:
        return _GIVEN
    verdict = choice.verdicts.get(tag)
    if verdict is None:
        return _NOT_JUDGED
    if verdict.ok:
        return _CAUTION if verdict.cautions else _FITS
    return tuple(dict.fromkeys(problem.code for problem in verdict.problems))


def _letters(number: int) -> str:
    """Return a to z, then aa, ab and so on."""
    before, last = divmod(number, 26)
    return (_letters(before - 1) if before else "") + chr(ord("a") + last)


def _reasons(selection: Selection, tags: Sequence[str]) -> dict[str, Reason]:
    """Return the reason of each code, in the order of the tags."""
    reasons: dict[str, Reason] = {}
    for tag in tags:
        for name, choice in selection.nodes.items():
            verdict = choice.verdicts.get(tag)
            for problem in verdict.problems if verdict else ():
                example = problem.what.removeprefix(f"{name}: ")
                reason = reasons.setdefault(problem.code, Reason(problem.code, example, set(), set()))
                reason.nodes.add(name)
                reason.tags.add(tag)
    return reasons


def _blocks(
    groups: Sequence[NodeGroup], names: Mapping[str, str], numbers: Mapping[str, str], width: int
) -> Iterator[Sequence[NodeGroup]]:
    """Yield as many groups as fit beside the tags."""
    wide = max(cell_len(text) for group in groups for text in (group.letter, *_texts(group, numbers)))
    tag_wide = min(max(map(cell_len, names.values())), max(width - wide - _GAP, _MIN_TAG))
    fit = max(1, (width - tag_wide) // (wide + _GAP))
    yield from (groups[start : start + fit] for start in range(0, len(groups), fit))


def _texts(group: NodeGroup, numbers: Mapping[str, str]) -> list[str]:
    return [
        text if isinstance(text, str) else " ".join(sorted((numbers[code] for code in text), key=int))
        for text in group.cells
    ]


def _group_table(groups: Sequence[NodeGroup], names: Mapping[str, str]) -> Table:
    table = make_table("group", "nodes", "image", "names", right=("nodes",))
    for group in groups:
        image = cell(names[group.tag], "bold green") if group.tag else cell("none", "red")
        table.add_row(group.letter, str(len(group.nodes)), image, cell(fold_names(group.nodes)))
    return table


def _tag_table(groups: Sequence[NodeGroup], names: Sequence[str], numbers: Mapping[str, str]) -> Table:
    table = make_table("tag", *(group.letter for group in groups))
    columns = [_texts(group, numbers) for group in groups]
    for name, *cells in zip(names, *columns, strict=True):
        table.add_row(cell(name), *(cell(text, _style(text)) for text in cells))
    return table


def _style(text: str) -> str:
    return {_GIVEN: "bold green", _FITS: "green", _CAUTION: "yellow"}.get(text, "red")


def _reason_table(reasons: Iterable[Reason], numbers: Mapping[str, str]) -> Table:
    table = make_table("", "reason", "concerns", "for example")
    for reason in reasons:
        concerns = f"{count(len(reason.nodes), 'node')}, {count(len(reason.tags), 'tag')}"
        table.add_row(numbers[reason.code], cell(reason.code), concerns, cell(reason.example))
    return table
