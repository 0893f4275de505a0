"""docs/faults.md has a row for every fault of a rollout; the tests, states and codes that the pages name exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs/faults.md"
ATTACKS = TESTS.parent / "docs/security.md"
ROW = re.compile(r"^\| (?P<fault>[A-Z]\d\d) \|.*\|$", re.MULTILINE)
ATTACK = re.compile(r"^\| [A-Z]\d* \|.*\|$", re.MULTILINE)
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")
WORD = re.compile(r"`([a-z]+(?:_[a-z]+)*)`")  # a state, a problem code or a command
CODE = ("provisioner", "playbooks/module_utils")


def rows() -> dict[str, str]:
    return {row["fault"]: row[0] for row in ROW.finditer(PAGE.read_text())}


@cache
def functions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_fault_has_a_row_and_every_row_names_tests() -> None:
    found = rows()
    assert [fault for fault in found if fault.startswith("F")] == [f"F{number:02}" for number in range(1, 31)]
    assert not [fault for fault, row in found.items() if not NAMED.search(row)]


@pytest.mark.parametrize("fault", sorted(rows()))
def test_every_test_named_in_a_row_exists(fault: str) -> None:
    named = NAMED.findall(rows()[fault])
    assert len(named) == rows()[fault].count(".py::")
    assert not [f"{file}::{name}" for file, name in named if name not in functions(TESTS / file)]


@pytest.mark.parametrize("fault", ["F24", "F26", "F29", "F30"])
def test_the_faults_of_self_service_name_tests_of_the_broker_and_of_its_client(fault: str) -> None:
    files = {Path(file).stem for file, _ in NAMED.findall(rows()[fault])}
    assert any(name.startswith("test_broker_") for name in files)
    assert any(name.startswith("test_client_") for name in files)


@pytest.mark.parametrize("page", ["broker.md", "broker.zh-CN.md"])
def test_the_files_of_tests_that_a_page_names_exist(page: str) -> None:
    named = set(re.findall(r"`(test_\w+\.py)`", (PAGE.parent / page).read_text()))
    assert named
    assert named <= {path.name for path in TESTS.rglob("test_*.py")}


def test_every_state_and_code_in_a_row_exists_in_the_code() -> None:
    code = "".join(path.read_text() for folder in CODE for path in (TESTS.parent / folder).rglob("*.py"))
    words = {word for row in rows().values() for word in WORD.findall(row)}
    assert words >= {"committed", "rolled_back", "unreachable"}
    assert not [word for word in sorted(words) if f'"{word}"' not in code]


def test_every_attack_has_tests_and_every_test_named_for_it_exists() -> None:
    found = ATTACK.findall(ATTACKS.read_text())
    assert found
    for row in found:
        named = NAMED.findall(row)
        assert named, row
        assert len(named) == row.count(".py::")
        assert not [f"{file}::{name}" for file, name in named if name not in functions(TESTS / file)]
