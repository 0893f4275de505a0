"""What may be wrong in a roster is shown by the commands that plan with it; who has no node, by the status, too."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cli.commands.people import LAB, Nodes, RosterLab
from tests.cli.running import document, run

MIXED = "id\n2024012345\n2024012346\n24012347\n"


@contextmanager
def open_nodes(*_: Any) -> Iterator[Nodes]:
    yield Nodes()


@pytest.fixture
def lab(roster_lab: RosterLab, monkeypatch: pytest.MonkeyPatch) -> RosterLab:
    monkeypatch.setenv("XDG_STATE_HOME", str(roster_lab.path.parent / "state"))
    monkeypatch.setattr("provisioner.cli.commands.plan.fleet", lambda *_: Nodes())
    monkeypatch.setattr("provisioner.cli.commands.rollout.open_fleet", open_nodes)
    (roster_lab.path / "lab.yml").write_text(f"{LAB}people: {{roster: roster.csv}}\n")
    return roster_lab


@pytest.mark.parametrize("command", ["plan", "rollout"])
@pytest.mark.parametrize(("roster", "is_shown"), [(MIXED, True), ("id\n2024012345\n2024012346\n", False)])
def test_a_caution_of_the_roster_is_shown(lab: RosterLab, command: str, roster: str, is_shown: bool) -> None:
    (lab.path / "roster.csv").write_text(roster)
    result = run(command, str(lab.path))
    assert ("ids_of_mixed_length" in result.stderr) is is_shown
    assert ("roster.csv:4:1: the id 24012347 has 8 digits" in result.stderr) is is_shown


def test_a_caution_stays_out_of_the_document(lab: RosterLab) -> None:
    (lab.path / "roster.csv").write_text(MIXED)
    result = run("plan", str(lab.path), "--json")
    assert document(result)["schema"] == "provisioner/plan/2"
    assert "ids_of_mixed_length" in result.stderr


def test_a_person_without_a_node_is_exit_1_of_the_status(lab: RosterLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provisioner.cli.commands.status.fleet", lambda *_: Nodes())
    (lab.path / "roster.csv").write_text("id,node\neve,gpu7\n")
    result = run("status", str(lab.path), "--json")
    found = document(result)
    assert (result.exit_code, found["seats"]) == (1, [])
    assert [problem["code"] for problem in found["unplaced"].values()] == ["no_such_node"]
