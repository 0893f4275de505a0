"""The diagram of CONTRIBUTING.md shows the floors and rooms that import-linter enforces."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.playbooks.test_package import ROOMS

ROOT = Path(__file__).parents[1]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
LAYERS = {contract["containers"][0]: contract for contract in CONTRACTS if contract["type"] == "layers"}
DIAGRAM = re.findall(r"```text\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)[0]


def layers_of(floor: str) -> list[set[str]]:
    """The layers that the diagram shows for the rooms of a floor, highest first."""
    line = re.search(rf"^{floor} +(\w.*)$", DIAGRAM, re.MULTILINE)
    assert line, floor
    return [set(layer.split(" | ")) for layer in line[1].split(" > ")]


@pytest.mark.parametrize("floor", ["domain", "workflow", "adapters"])
def test_diagram_shows_the_rooms_of_each_floor(floor: str) -> None:
    contract = LAYERS[f"provisioner.{floor}"]
    assert contract["exhaustive"]
    assert layers_of(floor) == [set(layer.split(" | ")) for layer in contract["layers"]]


def test_diagram_shows_the_rooms_of_the_node_code() -> None:
    assert layers_of("nodes") == [{room} for room in reversed(ROOMS)]


def test_diagram_shows_the_floors() -> None:
    above, between, below = LAYERS["provisioner"]["layers"]
    names = [re.findall(r"\b(?:cli|workflow|adapters|console|domain)\b", line) for line in DIAGRAM.splitlines()[:5]]
    assert [set(found) for found in names if found] == [{above}, set(between.split(" | ")), {below}]


def test_every_room_has_a_docstring_of_one_line() -> None:
    rooms = [path for path in (ROOT / "provisioner").rglob("__init__.py") if path.parent.name != "provisioner"]
    assert len(rooms) > 20
    assert not [str(room) for room in rooms if not re.match(r'"""[^"\n]+"""\n', room.read_text())]
