"""Parse YAML and JSON, and find the line and column of each value for messages."""

import json
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain, islice
from typing import Any, NamedTuple

import yaml

from provisioner.domain.values.problem import Problem, ProblemError

Loc = Sequence[str | int]

# Of one file: more are not read by a person, and the place of each is looked up in the file.
MAX_MISTAKES = 50
# The facts of 1,000 nodes have 300,000 values. Of many more, validation alone would take minutes.
_MAX_VALUES = 500_000
# Characters of a YAML file. PyYAML reads 30 kB a second, and a file written by hand is smaller.
_MAX_YAML = 256 << 10


_MAX_BITS = 63  # of a number; pydantic cannot show one of thousands of digits
HALF_A_PAIR = "half of a surrogate pair, which stands for no character"


class SourceDocument(NamedTuple):
    """A parsed document. `root` returns its YAML node for locations; JSON is composed once, at the first call.

    `duplicates`: a problem for each repeated key, of which `data` holds the last value only, and for each number that
    YAML reads otherwise than people do; at most MAX_MISTAKES.
    """

    name: str
    data: Any
    root: Callable[[], yaml.Node | None]
    duplicates: tuple[Problem, ...] = ()

    def place(self, loc: Loc, *, key: bool = False) -> str:
        """Return `file:line:column` of a value, or of its key; of the nearest parent where it does not exist."""
        return f"{self.name}:{_mark(self.root(), loc, key=key)}"

    def scalar(self, loc: Loc) -> str | None:
        """Return a scalar as it was typed, before YAML converted it to a number or a boolean. None for a collection."""
        node = _find(self.root(), loc)[1]
        return node.value if isinstance(node, yaml.ScalarNode) else None


def texts(data: Any, *loc: str) -> Iterator[str]:
    """Yield the text, or the texts of a list, at a place in a document that is not validated yet."""
    yield from (item for item in items(data, *loc) if isinstance(item, str))


def items(data: Any, *loc: str) -> list[Any]:
    """Return the value, or the items of a list, at a place in a document that is not validated yet."""
    for key in loc:
        data = data.get(key) if isinstance(data, dict) else None
    return data if isinstance(data, list) else [data]


def mapping(data: Any, key: str) -> dict[Any, Any]:
    """Return the mapping under a key of a document that is not validated yet; an empty one where it has none."""
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, dict) else {}


class _Loader(yaml.SafeLoader):
    """Keeps a date as text: PyYAML's own conversion raises a bare ValueError for the 31st of February.

    Joins surrogate pairs such as "\\ud83d\\ude00": JSON is written so, and PyYAML leaves halves that no file can hold.
    A value that its type does not have is refused with its place; PyYAML raises whatever the conversion did.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return the value of a node. Raises ConstructorError where it is not of its type, or too large a number."""
        try:
            value = super().construct_object(node, deep=deep)
        except (ValueError, LookupError, AttributeError):
            is_long = len(node.value) > sys.get_int_max_str_digits()
            reason = "too large a number" if is_long else f"no value of the type !!{node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, reason, node.start_mark) from None
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise yaml.constructor.ConstructorError(None, None, "too large a number", node.start_mark)
        return value

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        """Return the value of a scalar. Raises ConstructorError for half of a surrogate pair."""
        value: str = super().construct_scalar(node)
        try:
            return value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise yaml.constructor.ConstructorError(None, None, HALF_A_PAIR, node.start_mark) from None


def _refuse_tag(loader: yaml.SafeLoader, node: yaml.Node) -> Any:  # noqa: ARG001  (PyYAML's signature)
    raise yaml.constructor.ConstructorError(None, None, f"the tag {node.tag[:80]} has no meaning here", node.start_mark)


_Loader.add_constructor(None, _refuse_tag)
_TEXT = "tag:yaml.org,2002:str"
_KEYS_AS_TEXT = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool", "null")}
_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
_ODD_NUMBER = re.compile(r"[-+]?(0[0-7_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(name: str, text: str) -> SourceDocument:
    """Parse one YAML document. Raises ProblemError (usage) with the place where `text` is not valid."""
    if len(text) > _MAX_YAML:
        raise _not_yaml(f"{name}:1:1", f"larger than {_MAX_YAML >> 10} KiB")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        _read_keys_as_text(node)
        duplicates = tuple(islice(chain(_duplicate_keys(name, node), _odd_numbers(name, node)), MAX_MISTAKES))
        data = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(f"{name}:{_position(error.problem_mark)}", _reason(error)) from None
    except yaml.reader.ReaderError as error:
        raise _not_yaml(f"{name}:{_line_column(text, error.position)}", "a control character") from None
    except (RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise _not_yaml(f"{name}:1:1", reason) from None
    return SourceDocument(name, data, lambda: node, duplicates)


def read_json(name: str, text: str) -> SourceDocument:
    """Parse JSON. Raises ProblemError (usage) with the place where `text` is not valid."""
    if text.count(",") > _MAX_VALUES:
        raise _not_json(f"{name}:1:1", f"more than {_MAX_VALUES} values")
    has_duplicates = False

    def build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal has_duplicates
        result = dict(pairs)
        has_duplicates |= len(result) < len(pairs)
        return result

    try:
        data = json.loads(text, object_pairs_hook=build_object)
    except json.JSONDecodeError as error:
        raise _not_json(f"{name}:{error.lineno}:{error.colno}", error.msg) from None
    except RecursionError:
        raise _not_json(f"{name}:1:1", "nested too deeply") from None
    except ValueError as error:  # a number of more than 4,300 digits
        raise _not_json(f"{name}:1:1", str(error)) from None
    root = cache(lambda: _compose_json(text))
    duplicates = tuple(islice(_duplicate_keys(name, root()), MAX_MISTAKES)) if has_duplicates else ()
    return SourceDocument(name, data, root, duplicates)


# JSON allows tabs between values and any character within them. With those replaced by spaces it is also valid YAML.
_NOT_IN_YAML = re.compile("[^\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


def _compose_json(text: str) -> yaml.Node | None:
    """Return the YAML node of a JSON text, for places only; None where PyYAML cannot compose it."""
    try:
        node: yaml.Node | None = yaml.compose(_NOT_IN_YAML.sub(" ", text), Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, RecursionError):
        return None
    return node


def _find(node: yaml.Node | None, loc: Loc) -> tuple[yaml.Node | None, yaml.Node | None]:
    """Return key and value at `loc`, or those of the nearest parent where `loc` does not exist."""
    key = None
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == str(part)), None)
            if pair is None and isinstance(part, int):
                continue  # one value where the field may have a list: it is its own first item
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


def _duplicate_keys(name: str, root: yaml.Node | None) -> Iterator[Problem]:
    for node in _walk(root):
        if isinstance(node, yaml.MappingNode):
            yield from _duplicate_keys_of(name, node)


def _walk(root: yaml.Node | None) -> Iterator[yaml.Node]:
    """Yield every node once, also where aliases lead to it in several ways."""
    seen: set[int] = set()
    stack = deque([] if root is None else [root])
    while stack:
        node = stack.popleft()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if not isinstance(node, yaml.ScalarNode):
            stack.extend(child for pair in node.value for child in (pair if isinstance(pair, tuple) else (pair,)))


def _read_keys_as_text(root: yaml.Node | None) -> None:
    """Make each key a text as it is written: YAML 1.1 reads 2.10 as 2.1, 010 as 8, and no as false."""
    for node in _walk(root):
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag in _KEYS_AS_TEXT:
                key.tag = _TEXT


def _odd_numbers(name: str, root: yaml.Node | None) -> Iterator[Problem]:
    """Yield a problem for each number in base 8 or 60: YAML 1.1 reads 02000 as 1024 and 22:30 as 1350."""
    for node in _walk(root):
        if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and _ODD_NUMBER.fullmatch(node.value):
            yield Problem(
                "bad_value",
                f"{name}:{_position(node.start_mark)}: YAML does not read {node.value} as a decimal number",
                "a number that begins with 0 is in base 8, and one with colons in base 60",
                f'write it without leading zeros, or as text in quotes: "{node.value}"',
            )


def _duplicate_keys_of(name: str, node: yaml.MappingNode) -> Iterator[Problem]:
    first: dict[str, yaml.Node] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if key.value in first:
            line = first[key.value].start_mark.line + 1
            yield Problem(
                "duplicate_key",
                f'{name}:{_position(key.start_mark)}: the key "{key.value}" is here twice, first in line {line}',
                "all but the last one would be silently ignored",
                "keep one of them",
            )
        first.setdefault(key.value, key)


def _reason(error: yaml.MarkedYAMLError) -> str:
    """Join the two parts into which PyYAML splits some messages: `expected …`, `but found …`."""
    reason = error.problem or str(error)
    return f"{error.context} {reason}" if reason.startswith("but ") else reason


def _not_yaml(place: str, reason: str) -> ProblemError:
    tab = "'\\t'" in reason
    quotes = "quote text that contains a colon or starts with a special character, and align the keys"
    problem = Problem(
        "not_yaml",
        f"{place}: {'a tab where YAML requires spaces' if tab else f'not YAML: {reason}'}",
        "nothing of the file can be used before all of it can be parsed",
        "indent with spaces" if tab else quotes,
    )
    return ProblemError(problem, "usage")


def _not_json(place: str, reason: str) -> ProblemError:
    problem = Problem(
        "not_json",
        f"{place}: not JSON: {reason}",
        "nothing of the file can be used before all of it can be parsed",
        "correct the file there, or write it again with the program that created it",
    )
    return ProblemError(problem, "usage")
