"""The part of pynvml that nodes need, in the version that is locked here: nothing is installed on a node.

pynvml has 8 000 lines. A node compiles what it gets in each module that reads its GPUs, and that took a third of the
time of such a module.
"""

import ast
import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from provisioner.adapters import resources

_USER = "module_utils/provisioner/gpu/nvml.py"  # the only node code that imports pynvml, as `nvml`
_ERRORS = "NVML_ERROR_"  # pynvml makes its classes of errors from these constants, which it finds by their names
_ALWAYS = ""  # stands for the name of each statement that is always kept


@functools.cache
def pynvml_part() -> str:
    """Return the licence of pynvml, and the statements that the names used by the node code need, as they are there."""
    spec = find_spec("pynvml")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("pynvml")
    user = ast.parse((resources.playbooks() / _USER).read_text())
    wanted = {node.attr for node in ast.walk(user) if isinstance(node, ast.Attribute) and _is_nvml(node.value)}
    return part_of(Path(spec.origin).read_text(), wanted)


def part_of(source: str, wanted: Iterable[str]) -> str:
    """Return the first comment of a module, and those of its statements that define `wanted`, or that these need.

    Statements that define no name, such as imports, are kept.
    """
    lines, statements = source.splitlines(keepends=True), ast.parse(source).body
    places: defaultdict[str, set[int]] = defaultdict(set)
    for place, statement in enumerate(statements):
        for name in _defined(statement):
            places[_ALWAYS if name.startswith(_ERRORS) else name].add(place)
    kept: set[int] = set()
    missing = {place for name in (_ALWAYS, *wanted) for place in places[name]}
    while missing:
        kept |= missing
        names = {node.id for place in missing for node in ast.walk(statements[place]) if isinstance(node, ast.Name)}
        missing = {place for name in names for place in places[name]} - kept
    first = statements[0].lineno - 1 if statements else 0
    return "".join([*lines[:first], *(line for place in sorted(kept) for line in _lines(lines, statements[place]))])


def _defined(statement: ast.stmt) -> Iterator[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Assign(targets=targets):
            yield from (target.id for target in targets if isinstance(target, ast.Name))
        case _:
            yield _ALWAYS


def _lines(lines: list[str], statement: ast.stmt) -> list[str]:
    decorators = statement.decorator_list if isinstance(statement, ast.FunctionDef | ast.ClassDef) else []
    first = min([statement.lineno, *(decorator.lineno for decorator in decorators)])
    return lines[first - 1 : statement.end_lineno]


def _is_nvml(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "nvml"
