"""Write docs/lab-yml.md, the reference of lab.yml, from the JSON Schema of the model: python -m tests.lab_reference."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from provisioner.domain.lab.lab import Lab

PAGE = Path(__file__).parent.parent / "docs" / "lab-yml.md"
_NAMES = {"environments": "nlp", "groups": "student"}  # of the examples, where an admin gives the names
_TOP = """\
# Every key of lab.yml

The text comes from the model: `python -m tests.lab_reference` writes this page, and a test compares it. Editors show
the same with `provision schema > lab.schema.json` and `$schema: lab.schema.json` in lab.yml. A lab.yml with comments is
written by `provision init LAB`. A course's packages, tools and data: [environments.md](environments.md).

A key that is not here is an error, with its line and column. *none*: the key may be left out, and its text says what
holds then. Paths of files are relative to the lab's directory. Sizes are in powers of 1024, such as `512m` and `8g`. In
headings `NAME` is a name that you give, and `[]` stands for each entry of a list.
"""
_PLAIN = re.compile(r"[A-Za-z/][\w./@-]*(:[\w./-]+)?")  # no quotes needed, and none expected
_WORDS = {"string": "text", "boolean": "`true` or `false`"}
Node = Mapping[str, Any]
Places = Mapping[str, tuple[str, ...]]  # where in lab.yml each model stands


def reference() -> str:
    """Return the page."""
    schema = Lab.model_json_schema(by_alias=True)
    places = _places(schema, schema)
    parts = [_TOP, _table(schema, places), _block(("",), schema)]
    for model, found in places.items():
        node = schema["$defs"][model]
        parts += [f"## {_heading(found)}\n", f"{' '.join(node['description'].split())}\n", _table(node, places)]
        parts += [_block(found, node)]
    return "\n".join(part for part in parts if part)


def whole_example() -> dict[str, Any]:
    """Return the examples of all keys as one lab.yml."""
    schema = Lab.model_json_schema(by_alias=True)
    found: dict[str, Any] = {}
    for place, node in {"": schema, **_nodes(schema)}.items():
        _merge(found, _nested(place, _values(node)))
    return found


def _nodes(schema: Node) -> dict[str, Node]:
    return {place: schema["$defs"][model] for model, found in _places(schema, schema).items() for place in found}


def _places(schema: Node, node: Node, above: str = "") -> dict[str, tuple[str, ...]]:
    """Return the places below `above`, in the order of lab.yml."""
    found: dict[str, tuple[str, ...]] = {}
    for key, value in node["properties"].items():
        for model, suffix in _models(value).items():
            here = f"{above}{key}{suffix}"
            for name, places in {model: (here,), **_places(schema, schema["$defs"][model], f"{here}.")}.items():
                found[name] = found.get(name, ()) + places
    return found


def _models(node: Node) -> dict[str, str]:
    """Return the models of a value, each with what stands behind the key in its place."""
    if "$ref" in node:
        return {node["$ref"].rpartition("/")[2]: ""}
    if "items" in node:
        return dict.fromkeys(_models(node["items"]), "[]")
    inner = [*node.get("anyOf", ()), *node.get("patternProperties", {}).values()]
    suffix = ".NAME" if "patternProperties" in node else ""
    return {model: suffix + rest for one in inner for model, rest in _models(one).items()}


def _heading(places: tuple[str, ...]) -> str:
    return ", ".join(f"`{place}`" for place in places)


def _table(node: Node, places: Places) -> str:
    rows = ["| key | | default | |", "|---|---|---|---|"]
    for key, value in node["properties"].items():
        default = "**required**" if key in node.get("required", ()) else _default(value)
        cells = (f"`{key}`", _kind(value, places), default, value["description"])
        rows.append(f"| {' | '.join(cells)} |")
    return "".join(f"{row}\n" for row in rows)


def _default(value: Node) -> str:
    if _models(value) and value["default"]:
        return ""  # that of each key is in its own table
    return "*none*" if value["default"] is None else f"`{_line(value['default'])}`"


def _kind(value: Node, places: Places) -> str:
    """Return type and allowed values in words."""
    if "$ref" in value:
        anchor = re.sub(r"[^\w -]", "", _heading(places[value["$ref"].rpartition("/")[2]])).replace(" ", "-").lower()
        return f"[keys](#{anchor})"
    if "anyOf" in value:
        return _either(_kind(one, places) for one in value["anyOf"] if one.get("type") != "null")
    if "enum" in value:
        return _either(f"`{one}`" for one in value["enum"])
    if value["type"] == "array":
        return f"list{_count(value, 'Items')} of {_kind(value['items'], places)}"
    if value["type"] == "object":
        (one,) = value["patternProperties"].values()
        return f"{_kind(one, places)}, by name{_count(value, 'Properties')}"
    return f"{value.get('format') or _WORDS.get(value['type'], value['type'])}{_span(value)}"


def _either(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _span(value: Node) -> str:
    low, high, above = value.get("minimum", 0), value.get("maximum"), value.get("exclusiveMinimum")
    start = f" above {above}" if above is not None else f" from {low}" if low or high else ""
    return start if high is None else f"{start} to {high}"


def _count(value: Node, of: str) -> str:
    low, high = value.get(f"min{of}"), value.get(f"max{of}")
    return f" ({f'{low} to' if low else 'up to'} {high})" if high else f" ({low} or more)" if low else ""


def _values(node: Node) -> dict[str, Any]:
    """Return an example of each key that has no table of its own: that of the model, else the default."""
    values = {key: value for key, value in node["properties"].items() if not _models(value)}
    return {key: value["examples"][0] if "examples" in value else value["default"] for key, value in values.items()}


def _nested(place: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values as they stand in lab.yml."""
    found: Any = values
    above = ""
    parts = [part for part in place.split(".") if part]
    for index, part in reversed([*enumerate(parts)]):
        above = parts[index - 1] if index else ""
        key = part.removesuffix("[]")
        found = {_NAMES[above] if part == "NAME" else key: [found] if part.endswith("[]") else found}
    return dict(found)


def _block(places: tuple[str, ...], node: Node) -> str:
    values = _values(node)
    if not values:
        return ""
    marks = {key: f"@{number}@" for number, key in enumerate(values)}
    text = yaml.safe_dump(_nested(places[0], marks), sort_keys=False)
    for key, mark in marks.items():
        text = text.replace(f"'{mark}'", _line(values[key]))
    return f"```yaml\n{text}```\n"


def _line(value: object) -> str:
    """Return a value as YAML of one line, with quotes as people write them."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_line(one)}' for key, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_line, value))}]"
    is_plain = isinstance(value, str) and _PLAIN.fullmatch(value) and yaml.safe_load(value) == value
    return str(value) if is_plain else json.dumps(value)


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        old = into.setdefault(key, value)
        if isinstance(old, dict) and old is not value:
            _merge(old, value)
        elif isinstance(old, list) and old is not value:
            _merge(old[0], value[0])


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
