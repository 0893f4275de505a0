"""Exit codes of prepare and registry gc where no node or registry answers, and refused options."""

from pathlib import Path

import pytest

from provisioner.adapters.lab.lockfile import write_lock
from provisioner.adapters.state.run_lock import Holder, hold_run_lock
from provisioner.cli.commands.prepare import _code
from provisioner.domain.registry.gc import GarbageReport
from provisioner.domain.rollout.preparation import NodePreparation, Preparation, PrepareState, RegistryPreparation
from tests.builders import a_lock
from tests.cli.running import document, run

SETTINGS = 'name: demo\nmirror: {address: "127.0.0.1:1"}\nregistry: {address: "127.0.0.1:1"}\n'
HOSTS = "all: {hosts: {n1: {ansible_host: 127.0.0.1, ansible_port: 1}}}\n"
HOLDER = Holder(run="r1", verb="rollout", holder="ann@control1", since="2026-11-26T21:00:00+00:00", pid=4711)


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    (tmp_path / "lab.yml").write_text(SETTINGS)
    (tmp_path / "hosts.yml").write_text(HOSTS)
    return tmp_path


def test_prepare_reports_an_unreachable_node_and_registry_without_a_question(lab: Path) -> None:
    ran = run("prepare", str(lab), "--json")
    found = document(ran)
    assert ran.exit_code == 1
    assert found["schema"] == "provisioner/preparation/1"
    assert (found["registry"]["state"], found["nodes"][0]["state"]) == ("failed", "unreachable")
    assert [problem["code"] for problem in found["registry"]["problems"]] == ["no_such_service"]


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
def test_exit_code_of_prepare(registry: PrepareState, nodes: list[PrepareState], code: int) -> None:
    found = Preparation(
        lab="demo",
        check=False,
        registry=RegistryPreparation(node="", state=registry),
        nodes=tuple(NodePreparation(node=f"n{i}", state=state) for i, state in enumerate(nodes)),
    )
    assert _code(found) == code


def test_gc_refuses_a_limit_and_needs_a_lock(lab: Path) -> None:
    ran = run("registry", "gc", str(lab), "--limit", "n1")
    assert (ran.exit_code, "every node" in ran.stderr) == (2, True)
    ran = run("registry", "gc", str(lab))
    assert (ran.exit_code, "no_lock" in ran.stderr) == (2, True)
    ran = run("registry", "gc", str(lab), "--keep-lock", str(lab / "none.lock"))
    assert ran.exit_code == 2


def test_gc_fails_where_the_registry_does_not_answer(lab: Path) -> None:
    write_lock(lab / "lab.lock", a_lock())
    with hold_run_lock("demo", HOLDER):  # a dry run removes nothing, so it may start beside another run
        ran = run("registry", "gc", str(lab), "--dry-run", "--json")
    assert ran.exit_code == 1
    assert document(ran)["problems"][0]["code"] == "no_such_service"


@pytest.mark.parametrize("words", [("prepare", "--yes"), ("registry", "gc", "--yes"), ("lock",)], ids=" ".join)
def test_no_command_that_changes_nodes_registry_or_lock_starts_beside_a_run(lab: Path, words: tuple[str, ...]) -> None:
    write_lock(lab / "lab.lock", a_lock())
    with hold_run_lock("demo", HOLDER):
        ran = run(*words, str(lab), "--json")
    assert ran.exit_code == 5
    (problem,) = document(ran)["problems"]
    assert problem["code"] == "locked"
    assert "run r1 is changing this lab" in problem["what"]
    assert problem["fix"] == "wait until it has ended"


def test_gc_with_a_silent_node_prints_one_document_and_removes_nothing(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lock(lab / "lab.lock", a_lock())
    registry = {"registry": "127.0.0.1:1", "repository": "provisioner/lab"}
    found = GarbageReport(lab="demo", **registry, dry_run=False, kept=(), removed=(), bytes=0, silent=("n1",))
    monkeypatch.setattr("provisioner.cli.commands.registry.gc._find_garbage", lambda *_: found)
    ran = run("registry", "gc", str(lab), "--yes", "--json")
    assert (ran.exit_code, document(ran)["silent"]) == (1, ["n1"])
    assert [problem["code"] for problem in document(ran)["problems"]] == ["silent_nodes"]
    assert "no complete list of generations from n1" in ran.stderr
