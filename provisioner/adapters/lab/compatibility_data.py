"""Load the compatibility data of the package, and the rows that a lab adds to it or replaces."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from provisioner.adapters.lab.source_location import Loc, SourceDocument
    from provisioner.domain.compatibility.data import CompatibilityData
    from provisioner.domain.compatibility.overlay import Overlay, OwnMeasuredImage
    from provisioner.domain.values.problem import Problem

OVERLAY = "compatibility.yaml"

_EXPECTED = {
    "source": "the source of this row, such as a link, or what you measured",
    "evidence": "the source of this row, such as a link, or measured(2.16.0)",
    "capability": 'a number in quotes, such as "12.0"',
    "capabilities": 'a list of numbers in quotes, such as ["12.0"]',
    "cuda": 'a version in quotes, such as "13.2"',
    "driver": 'a version in quotes, such as "580.65.06"',
    "drivers": 'a list of versions in quotes, such as ["580.65.06"]',
    "min_driver": 'a version in quotes, such as "580.65.06"',
    "since": 'a list of versions in quotes, such as ["570.169", "575.57.08"]',
    "newest": 'a version in quotes, such as "580.178.04"',
    "until": 'a day in quotes, such as "2028-06-30"',
    "version": 'a minor release of torch in quotes, such as "2.16"',
    "sm": "a list of architecture numbers, such as [75, 80, 120]",
}


@cache
def load() -> "CompatibilityData":
    """Return the data of the package. It is read once; later calls return the same value."""
    import yaml  # noqa: PLC0415  (not for `--help`)

    from provisioner.domain.compatibility.data import CompatibilityData  # noqa: PLC0415

    text = files("provisioner").joinpath("data/compatibility.yaml").read_text(encoding="utf-8")
    return CompatibilityData.model_validate(yaml.load(text, yaml.CSafeLoader))


def load_for_lab(lab: Path) -> "CompatibilityData":
    """Return the data of the package with the rows of the lab's compatibility.yaml, if the lab has one.

    Raises ProblemError (usage) with every mistake in that file.
    """
    return load_with_overlay(lab / OVERLAY) if (lab / OVERLAY).exists() else load()


def load_with_overlay(path: Path) -> "CompatibilityData":
    """Return the data of the package with the rows of one file.

    Raises ProblemError (usage) with every mistake in the file and its place.
    """
    from provisioner.adapters.state.files import read_text  # noqa: PLC0415  (not for `--help`)
    from provisioner.domain.compatibility.overlay import apply_overlay  # noqa: PLC0415

    text = read_text(path, "name an existing file; `provision facts show` shows the data")
    return apply_overlay(load(), _read_overlay(str(path), text))


def _read_overlay(name: str, text: str) -> "Overlay":
    from provisioner.adapters.lab.source_location import read_yaml  # noqa: PLC0415
    from provisioner.adapters.lab.validation import validate_document  # noqa: PLC0415
    from provisioner.domain.compatibility.overlay import Overlay  # noqa: PLC0415

    document = read_yaml(name, text)
    if document.data is None:
        return Overlay()
    return validate_document(document, Overlay, _EXPECTED, _unquoted(document, document.data, (), set()))


def save_measured(path: Path, rows: "Sequence[OwnMeasuredImage]") -> bool:
    """Put rows into the block `measured` of a lab's file, in place of those with the same digests.

    A file that does not exist is created. Everything else in it stays as it is, comments included. Returns whether the
    file has changed.
    Raises ProblemError (usage) with every mistake in the file, and where no row can be added to its form.
    """
    from provisioner.adapters.state.files import read_text, write_text  # noqa: PLC0415  (not for `--help`)
    from provisioner.domain.compatibility.overlay import Overlay  # noqa: PLC0415
    from provisioner.domain.values.problem import ProblemError  # noqa: PLC0415

    path = path.resolve()
    text = read_text(path, "correct it") if path.exists() else _HEAD
    before, own = _read_overlay(str(path), text), {row.digest: row for row in rows}
    changed = _put_rows(str(path), text, own)
    expected = {row.digest: row for row in before.measured} | own
    try:
        after = _read_overlay(str(path), changed)
    except ProblemError:
        after = Overlay()
    if after != before.model_copy(update={"measured": tuple(expected.values())}):
        raise ProblemError(_not_editable(path, own.values()), "usage")
    if changed != text:
        write_text(path, changed)
    return changed != text


_HEAD = """\
# Rows of this lab over the compatibility data; `provision facts show` says what may stand here.
"""


def _put_rows(name: str, text: str, rows: "Mapping[str, OwnMeasuredImage]") -> str:
    """Return the text of a file with the rows, by digest, in its block `measured`."""
    import yaml  # noqa: PLC0415

    from provisioner.adapters.lab.source_location import read_yaml  # noqa: PLC0415

    root: Any = read_yaml(name, text).root()
    pairs = [] if root is None else root.value
    key, block = next(((key, value) for key, value in pairs if key.value == "measured"), (None, None))
    if key is None or block is None:
        indent = " " * (root.start_mark.column if pairs else 0)
        start = text if text.endswith("\n") or not text else f"{text}\n"
        return f"{start}{indent}measured:{_items(rows.values(), f'{indent}  ')}\n"
    if not isinstance(block, yaml.SequenceNode) or not block.value:
        items = _items(rows.values(), " " * (key.start_mark.column + 2))
        return f"{text[: key.end_mark.index]}:{items}{text[block.end_mark.index :]}"
    known = {_digest_of(item): item for item in block.value}
    new = [row for digest, row in rows.items() if digest not in known]
    indent = " " * block.start_mark.column
    added = "".join(f", {_flow(row)}" for row in new) if block.flow_style else _items(new, indent)
    last = _end(block.value[-1])
    # A comment behind the last row stays there.
    at = last if block.flow_style or "\n" not in text[last:] else text.index("\n", last)
    edits = [(at, at, added)]
    for digest in rows.keys() & known.keys():
        item, row = known[digest], rows[digest]
        now = _flow(row) if block.flow_style else _items([row], indent).lstrip().removeprefix("- ")
        edits.append((item.start_mark.index, _end(item), now))
    for first, end, now in sorted(edits, reverse=True):
        text = text[:first] + now + text[end:]
    return text


def _digest_of(item: Any) -> str:
    """Return the digest of a row of the block."""
    return next(str(value.value) for key, value in item.value if key.value == "digest")


def _end(node: Any) -> int:
    """Return where the text of a node ends; PyYAML's own end of a block is the beginning of what follows it."""
    if isinstance(node.value, str) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)


def _fields(row: "OwnMeasuredImage") -> "Iterator[str]":
    """Yield `key: value` for each field of a row. JSON's texts in quotes are YAML, too."""
    read = row.model_dump(mode="json")
    for name in ("image", "digest", "platform", "torch", "cuda", "source"):
        yield f"{name}: {json.dumps(read[name], ensure_ascii=False)}"
    yield f"targets: [{', '.join(row.targets)}]"


def _flow(row: "OwnMeasuredImage") -> str:
    return f"{{{', '.join(_fields(row))}}}"


def _items(rows: "Iterable[OwnMeasuredImage]", indent: str) -> str:
    """Return the rows as items of a block, each with a line feed before it."""
    between = f"\n{indent}  "
    return "".join(f"\n{indent}- {between.join(_fields(row))}" for row in rows)


def _not_editable(path: Path, rows: "Iterable[OwnMeasuredImage]") -> "Problem":
    from provisioner.domain.values.problem import Problem  # noqa: PLC0415

    return Problem(
        "not_editable",
        f"{path}: no row can be added to its block `measured`",
        "the file has a form that cannot be changed without touching your other lines",
        f"write it there yourself: measured: [{', '.join(map(_flow, rows))}]",
    )


def _unquoted(document: "SourceDocument", part: Any, loc: "Loc", seen: set[int]) -> "Iterator[Problem]":
    """Yield a problem for each version that YAML read as a number: 12.10 would become 12.1.

    `seen`: the ids of collections that were visited; aliases of YAML can lead to one of them in very many ways.
    """
    from provisioner.domain.values.problem import Problem  # noqa: PLC0415

    if isinstance(part, dict | list):
        if id(part) in seen:
            return
        seen.add(id(part))
    if isinstance(part, float):
        typed = document.scalar(loc)
        yield Problem(
            "bad_value",
            f'{document.place(loc)}: {typed} is read as a number; write it in quotes: "{typed}"',
            "12.10 would be read as 12.1",
            f'write "{typed}"',
        )
    pairs = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, value in pairs:
        yield from _unquoted(document, value, (*loc, key), seen)
