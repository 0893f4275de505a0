"""Parse and write compose files as YAML text that every YAML parser reads in the same way."""

import json
import re
from typing import Any

import yaml

# What Compose would substitute from its environment: a `$` that is not doubled.
_INTERPOLATION = re.compile(r"(?<!\$)(?:\$\$)*\$(?!\$)")
# Characters that JSON does not escape in a string and YAML 1.1 folds, drops or refuses.
_UNSAFE = re.compile("[\x7f-\xa0\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_DEEPEST = 100  # levels; a project has 9
_HEADER = "# Rendered and proved by provisioner. Changes made here are lost at the next rollout.\n"


class _StrictLoader(yaml.CSafeLoader):
    """Refuse duplicate keys: the last would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse duplicate keys."""
        keys = [key.value for key, _ in node.value]
        if duplicate := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.MarkedYAMLError(problem=f"duplicate key {duplicate!r}", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep=deep)


class _QuotingDumper(yaml.CSafeDumper):
    """Quote every string, so that neither YAML 1.1 (`no`, `22:22`) nor 1.2 (`0o17`) reads it as another type."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Write the string in double quotes."""
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"')

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        """Write the keys without quotes."""
        node = super().represent_mapping(tag, mapping, flow_style)
        for key, _ in node.value:
            key.style = None
        return node


_QuotingDumper.add_representer(str, _QuotingDumper.represent_str)


def quoted(value: Any) -> str:
    """Return `value` as a YAML flow value, with `$` doubled for Compose. Raises TypeError for types that JSON lacks."""
    text = json.dumps(_double_dollars(value), ensure_ascii=False)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def read(text: str) -> Any:
    """Parse a compose file. Raises ValueError where parsers could differ or Compose would substitute a variable."""
    try:
        _refuse_structure(text)
        return _undouble_dollars(yaml.load(text, _StrictLoader))  # noqa: S506  (it is a SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _refuse_structure(text: str) -> None:
    """Refuse aliases, of which a few lines can expand to gigabytes, and nesting that would exhaust libyaml's stack."""
    depth = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise _refused(event, "nested too deeply")
        if isinstance(event, yaml.AliasEvent):
            raise _refused(event, "aliases are not allowed")


def _refused(event: yaml.Event, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]


def write(document: Any) -> str:
    """Return the document as YAML text that `read` parses to the same value."""
    return _HEADER + yaml.dump(
        _double_dollars(document), Dumper=_QuotingDumper, sort_keys=False, allow_unicode=True, width=1 << 20
    )


def _double_dollars(value: Any) -> Any:
    return _map_strings(value, lambda text: text.replace("$", "$$"))


def _undouble_dollars(value: Any) -> Any:
    return _map_strings(value, _undouble)


def _undouble(text: str) -> str:
    if _INTERPOLATION.search(text):
        raise ValueError(f"Compose would substitute a variable: {text!r}")
    return text.replace("$$", "$")


def _map_strings(value: Any, change: Any) -> Any:
    """Apply `change` to every string except keys, which Compose does not interpolate."""
    match value:
        case str():
            return change(value)
        case dict():
            return {key: _map_strings(item, change) for key, item in value.items()}
        case list() | tuple():
            return [_map_strings(item, change) for item in value]
        case _:
            return value
