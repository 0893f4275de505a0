"""How prepare and registry gc end where nobody answers, and what they refuse to begin."""

from pathlib import Path

import pytest

from provisioner.adapters.lab.lockfile import write_lock
from provisioner.cli.commands.prepare import _code
from provisioner.domain.rollout.preparation import NodePreparation, Preparation, PrepareState, RegistryPreparation
from tests.builders import a_lock
from tests.cli.running import document, run

WISH = 'name: demo\nmirror: {address: "127.0.0.1:1"}\nregistry: {address: "127.0.0.1:1"}\n'
DEAD = "all: {hosts: {n1: {ansible_host: 127.0.0.1, ansible_port: 1}}}\n"


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    (tmp_path / "lab.yml").write_text(WISH)
    (tmp_path / "hosts.yml").write_text(DEAD)
    return tmp_path


def test_nodes_and_a_registry_that_are_down_are_told_and_nothing_is_asked(lab: Path) -> None:
    ran = run("prepare", str(lab), "--json")
    told = document(ran)
    assert ran.exit_code == 1
    assert told["schema"] == "provisioner/preparation/1"
    assert (told["registry"]["state"], told["nodes"][0]["state"]) == ("failed", "unreachable")
    assert [problem["code"] for problem in told["registry"]["problems"]] == ["no_such_service"]


@pytest.mark.parametrize(
    ("registry", "nodes", "code"),
    [
        ("ready", ["ready", "prepared"], 0),
        ("prepared", [], 0),
        ("ready", ["ready", "lacking"], 3),
        ("lacking", ["ready"], 3),
        ("ready", ["deferred", "prepared"], 4),
        ("ready", ["deferred", "failed"], 1),
        ("failed", ["ready"], 1),
        ("ready", ["unknown", "lacking"], 1),
    ],
)
def test_how_it_ends(registry: PrepareState, nodes: list[PrepareState], code: int) -> None:
    found = Preparation(
        lab="demo",
        check=False,
        registry=RegistryPreparation(node="", state=registry),
        nodes=tuple(NodePreparation(node=f"n{i}", state=state) for i, state in enumerate(nodes)),
    )
    assert _code(found) == code


def test_a_collection_asks_every_node_or_none(lab: Path) -> None:
    ran = run("registry", "gc", str(lab), "--limit", "n1")
    assert (ran.exit_code, "every node" in ran.stderr) == (2, True)
    ran = run("registry", "gc", str(lab))
    assert (ran.exit_code, "no_lock" in ran.stderr) == (2, True)
    ran = run("registry", "gc", str(lab), "--keep-lock", str(lab / "none.lock"))
    assert ran.exit_code == 2


def test_a_registry_that_does_not_answer_is_no_empty_one(lab: Path) -> None:
    write_lock(lab / "lab.lock", a_lock())
    ran = run("registry", "gc", str(lab), "--dry-run", "--json")
    assert ran.exit_code == 1
    assert document(ran)["problems"][0]["code"] == "no_such_service"
