"""YAML and JSON that a person wrote, and the line and column at which each part of it stands."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import yaml

from provisioner.domain.values.problem import Problem, ProblemError

Loc = Sequence[str | int]


class SourceDocument(NamedTuple):
    """A document's value. `root` gives its YAML node, for places; JSON is only composed where one is asked for.

    `twice`: keys that it holds twice, of which only the last counts in `data`.
    """

    name: str
    data: Any
    root: Callable[[], yaml.Node | None]
    twice: tuple[Problem, ...] = ()

    def place(self, loc: Loc, *, key: bool = False) -> str:
        """`file:line:column` of a value, or of its key; of the nearest part around it where it is not there itself."""
        return f"{self.name}:{_mark(self.root(), loc, key=key)}"

    def scalar(self, loc: Loc) -> str | None:
        """A single value as it was typed, before YAML made a number or a boolean of it."""
        node = _find(self.root(), loc)[1]
        return node.value if isinstance(node, yaml.ScalarNode) else None


class _Loader(yaml.SafeLoader):
    """A date stays text: PyYAML's own reading of one raises a bare ValueError for the 31st of February."""


_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(name: str, text: str) -> SourceDocument:
    """Raises ProblemError where `text` is no YAML."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        twice = tuple(_duplicates(name, node))
        data = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(f"{name}:{_position(error.problem_mark)}", _reason(error)) from None
    except yaml.reader.ReaderError as error:
        raise _not_yaml(f"{name}:{_line_column(text, error.position)}", "a control character") from None
    except (RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise _not_yaml(f"{name}:1:1", reason) from None
    return SourceDocument(name, data, lambda: node, twice)


def read_json(name: str, text: str) -> SourceDocument:
    """Raises ProblemError where `text` is no JSON."""
    doubled: list[dict[str, Any]] = []
    try:
        data = json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, doubled))
    except json.JSONDecodeError as error:
        raise _not_json(f"{name}:{error.lineno}:{error.colno}", error.msg) from None
    except RecursionError:
        raise _not_json(f"{name}:1:1", "nested too deeply") from None
    twice = tuple(_duplicates(name, _compose_json(text))) if doubled else ()
    return SourceDocument(name, data, lambda: _compose_json(text), twice)


def _object(pairs: list[tuple[str, Any]], doubled: list[dict[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) < len(pairs):
        doubled.append(read)
    return read


# JSON allows tabs between values and any character within them; as YAML it reads alike once those are blanked out.
_NOT_IN_YAML = re.compile("[^\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


def _compose_json(text: str) -> yaml.Node | None:
    node: yaml.Node | None = yaml.compose(_NOT_IN_YAML.sub(" ", text), Loader=_Loader)
    return node


def _find(node: yaml.Node | None, loc: Loc) -> tuple[yaml.Node | None, yaml.Node | None]:
    """Key and value at `loc`; the nearest ones around it where the way ends early."""
    key = None
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            pair = (node.value[part], node.value[part])  # an item is its own key
        else:
            pair = None
        if pair is None:
            break
        key, node = pair
    return key, node


def _mark(root: yaml.Node | None, loc: Loc, *, key: bool) -> str:
    at_key, at_value = _find(root, loc)
    empty = isinstance(at_value, yaml.ScalarNode) and not at_value.value and at_value.style is None
    node = at_key if at_key is not None and (key or empty) else at_value
    return "1:1" if node is None else _position(node.start_mark)


def _position(mark: yaml.Mark | None) -> str:
    return "1:1" if mark is None else f"{mark.line + 1}:{mark.column + 1}"


def _line_column(text: str, position: int) -> str:
    return f"{text.count(chr(10), 0, position) + 1}:{position - text.rfind(chr(10), 0, position)}"


def _duplicates(name: str, root: yaml.Node | None) -> Iterator[Problem]:
    seen: set[int] = set()
    stack = [] if root is None else [root]
    while stack:
        node = stack.pop(0)
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield from _twice(name, node)
        stack += [child for pair in node.value for child in (pair if isinstance(pair, tuple) else (pair,))]


def _twice(name: str, node: yaml.MappingNode) -> Iterator[Problem]:
    first: dict[str, yaml.Node] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if key.value in first:
            line = first[key.value].start_mark.line + 1
            yield Problem(
                "duplicate_key",
                f'{name}:{_position(key.start_mark)}: the key "{key.value}" is here twice, first in line {line}',
                "only the last one would count, without a word",
                "keep one of them",
            )
        first.setdefault(key.value, key)


def _reason(error: yaml.MarkedYAMLError) -> str:
    """PyYAML splits some sentences in two: `expected …`, `but found …`."""
    reason = error.problem or str(error)
    return f"{error.context} {reason}" if reason.startswith("but ") else reason


def _not_yaml(place: str, reason: str) -> ProblemError:
    tab = "'\\t'" in reason
    quotes = "put text that holds a colon or starts with a sign in quotes, and align the keys"
    problem = Problem(
        "not_yaml",
        f"{place}: {'a tab where YAML wants spaces' if tab else f'not YAML: {reason}'}",
        "the file is only understood as a whole",
        "indent with spaces" if tab else quotes,
    )
    return ProblemError(problem, "usage")


def _not_json(place: str, reason: str) -> ProblemError:
    problem = Problem(
        "not_json",
        f"{place}: not JSON: {reason}",
        "the file is only understood as a whole",
        "mend the file there, or write it again with the program that made it",
    )
    return ProblemError(problem, "usage")
