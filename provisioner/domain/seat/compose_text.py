"""Compose files as text: read so that only one reading is possible, written so that every reader reads the same."""

import json
import re
from typing import Any

import yaml

# What Compose would replace from its environment: a `$` that no other `$` stands before or after.
_INTERPOLATION = re.compile(r"(?<!\$)(?:\$\$)*\$(?!\$)")
# Characters that JSON leaves bare in a string and YAML 1.1 folds, drops or refuses.
_NOT_BARE = re.compile("[\x7f-\xa0\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_HEADER = "# Rendered and proved by provisioner. Changes made here are lost at the next rollout.\n"


class _Reader(yaml.SafeLoader):
    """No key twice (the last would win in silence), no alias (a few lines of them unfold to gigabytes)."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="an alias", problem_mark=self.get_mark())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.MarkedYAMLError(problem=f"the key {twice!r} stands twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep=deep)


class _Writer(yaml.SafeDumper):
    """Every string in double quotes, so that neither YAML 1.1 (`no`, `22:22`) nor 1.2 (`0o17`) sees anything else."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"')

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        node = super().represent_mapping(tag, mapping, flow_style)
        for key, _ in node.value:
            key.style = None
        return node


_Writer.add_representer(str, _Writer.represent_str)


def quoted(value: Any) -> str:
    """A YAML flow value that reads as `value` again, `$` doubled against Compose. Raises TypeError for other types."""
    text = json.dumps(_dollars_doubled(value), ensure_ascii=False)
    return _NOT_BARE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def read(text: str) -> Any:
    """What the file says. Raises ValueError where two readers could differ, or Compose would fill in a variable."""
    try:
        return _dollars_single(yaml.load(text, _Reader))  # noqa: S506  (it is a SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def write(document: Any) -> str:
    return _HEADER + yaml.dump(
        _dollars_doubled(document), Dumper=_Writer, sort_keys=False, allow_unicode=True, width=1 << 20
    )


def _dollars_doubled(value: Any) -> Any:
    return _each_string(value, lambda text: text.replace("$", "$$"))


def _dollars_single(value: Any) -> Any:
    return _each_string(value, _single)


def _single(text: str) -> str:
    if _INTERPOLATION.search(text):
        raise ValueError(f"Compose would fill in a variable: {text!r}")
    return text.replace("$$", "$")


def _each_string(value: Any, change: Any) -> Any:
    """`value` with its strings changed; keys stay, as Compose leaves them alone."""
    match value:
        case str():
            return change(value)
        case dict():
            return {key: _each_string(item, change) for key, item in value.items()}
        case list() | tuple():
            return [_each_string(item, change) for item in value]
        case _:
            return value
