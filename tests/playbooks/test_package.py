"""Rules of the node code as a package: order of its rooms, Python 3.8, imports, an __init__.py in every folder."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from provisioner.adapters import resources

PACKAGE = resources.playbooks() / "module_utils/provisioner"
LIBRARY = resources.playbooks() / "library"
NAME = "ansible.module_utils.provisioner"
# A room imports from those before it.
ROOMS = (
    "base",
    "client",
    "jobs",
    "docker",
    "gpu",
    "mount",
    "seat",
    "inside",
    "disk",
    "transaction",
    "fetch",
    "lease",
    "admin",
    "broker",
    "self_service",
    "prepare",
)
MOST_MODULES = 12
VERMIN = str(Path(sys.executable).with_name("vermin"))
MODULES = sorted(PACKAGE.rglob("*.py"))
FILES = [*MODULES, *sorted(LIBRARY.glob("*.py"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(resources.playbooks()))


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Return the full names of the imports of a file; a name imported from a module is appended to the module."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: Ansible ships only modules that are imported by their full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    return {name[len(NAME) + 1 :].split(".")[0] for name in imports(path) if name.startswith(f"{NAME}.")}


def test_a_room_imports_only_from_rooms_below_it() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(ROOMS)
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py"}
    wrong = {
        name_of(path): above
        for number, room in enumerate(ROOMS)
        for path in (PACKAGE / room).glob("*.py")
        if (above := rooms_imported(path) - set(ROOMS[: number + 1]))
    }
    assert not wrong


def test_a_room_has_no_cycle_of_modules() -> None:
    open_edges = {
        path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): {
            ".".join(name[len(NAME) + 1 :].split(".")[:2]) for name in imports(path) if name.startswith(f"{NAME}.")
        }
        for path in MODULES
    }
    while leaves := {name for name, wanted in open_edges.items() if not wanted & open_edges.keys()}:
        open_edges = {name: wanted for name, wanted in open_edges.items() if name not in leaves}
    assert not open_edges


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_small_and_every_module_is_used(room: str) -> None:
    names = {path.stem for path in (PACKAGE / room).glob("*.py")} - {"__init__"}
    assert 0 < len(names) <= MOST_MODULES
    used = {name for path in FILES for name in imports(path)}
    assert not [name for name in names if not any(f"{u}.".startswith(f"{NAME}.{room}.{name}.") for u in used)]


@pytest.mark.parametrize("folder", [PACKAGE, *(PACKAGE / room for room in ROOMS)], ids=lambda path: path.name)
def test_every_folder_has_an_init_with_only_a_docstring(folder: Path) -> None:
    """Without the file a module fails on the node; what it imported would be shipped with every task."""
    tree = ast.parse((folder / "__init__.py").read_text())
    assert len(tree.body) == 1
    assert ast.get_docstring(tree)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_the_standard_library_ansible_and_this_package(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path)}
    assert roots <= {*sys.stdlib_module_names, "ansible"}
    of_ansible = {name for name in imports(path) if name.startswith("ansible") and not name.startswith(f"{NAME}.")}
    assert of_ansible <= {"ansible.module_utils.basic.AnsibleModule", "ansible.module_utils.pynvml"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_each_file_parses_with_the_grammar_of_python_3_8(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 8))


def evaluated_types(tree: ast.AST) -> set[str]:
    """Return the types that are given parameters where the program runs: Python 3.8 knows that of `typing` alone."""
    imported = (
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "collections.abc"
    )
    generic = {"dict", "frozenset", "list", "set", "tuple", "type", *(a.name for node in imported for a in node.names)}
    ignored = set[ast.AST]()
    for node in ast.walk(tree):
        found = [getattr(node, name, None) for name in ("annotation", "returns")]
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            found += node.body
        ignored |= {inner for part in found if isinstance(part, ast.AST) for inner in ast.walk(part)}
    subscripts = (node for node in ast.walk(tree) if isinstance(node, ast.Subscript) and node not in ignored)
    return {ast.unparse(node) for node in subscripts if isinstance(node.value, ast.Name) and node.value.id in generic}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_type_is_given_parameters_in_a_way_that_python_3_8_lacks(path: Path) -> None:
    assert not evaluated_types(ast.parse(path.read_text()))


def test_a_type_with_parameters_is_found_where_it_is_evaluated() -> None:
    text = """
from collections.abc import Mapping
A = Mapping[str, int]
class B(dict[str, str]): x: list[int] = []
def f(x: set[int]) -> tuple[int, int]: return [type[x]]
"""
    assert evaluated_types(ast.parse(text)) == {"Mapping[str, int]", "dict[str, str]", "type[x]"}


def test_mypy_checks_every_file_that_runs_as_root_on_nodes() -> None:
    root = resources.playbooks().parent
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["strict"]
    assert {"playbooks/library", ".ci/typings"} <= set(settings["files"])
    assert (root / ".ci/typings/ansible/module_utils/provisioner").resolve() == PACKAGE


def test_no_file_calls_what_python_3_8_lacks() -> None:
    """The grammar does not cover methods that came later, such as str.removeprefix."""
    argv = [VERMIN, "--no-tips", "--violations", "-t=3.8-"]
    ran = subprocess.run([*argv, str(PACKAGE), str(LIBRARY)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_vermin_finds_a_call_that_python_3_8_lacks(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text('print("abc".removeprefix("a"))\n')
    argv = [VERMIN, "--no-tips", "--violations", "-t=3.8-", str(tmp_path)]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert "removeprefix" in ran.stdout
