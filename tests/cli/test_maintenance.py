"""Maintenance windows and freezes: refused, deferred or overridden, before any node is contacted."""

import json
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from provisioner.adapters.state.journal import open_run
from provisioner.cli.maintenance import check_maintenance
from provisioner.cli.options import Overrides
from provisioner.domain.lab.calendar import Calendar, Freeze
from provisioner.domain.rollout.plan import Action, Plan, Step
from provisioner.domain.self_service.publication import Publication
from provisioner.domain.values.problem import ProblemError
from tests.cli.running import run

FOREVER = Freeze.model_validate({"from": "2020-01-01", "to": "2199-12-31", "why": "exams"})
CLOSED = Calendar((FOREVER,), (), ZoneInfo("Europe/Berlin"))
OPEN = Calendar((), (), ZoneInfo("UTC"))


def a_plan(action: Action) -> Plan:
    return Plan(lab="demo", image=None, steps=(Step(node="n1", seat=None, action=action, why=""),))


def test_a_change_in_a_freeze_is_refused_as_deferred() -> None:
    with pytest.raises(ProblemError) as refused:
        check_maintenance(CLOSED, a_plan("update"), Overrides(), open_run("demo").record)
    assert refused.value.ending == "deferred"
    assert [problem.code for problem in refused.value.problems] == ["frozen"]


def test_self_service_is_not_published_in_a_freeze() -> None:
    publication = Publication(node="n1", action="update", why="")
    plan = Plan(lab="demo", image=None, steps=(), publications=(publication,))
    with pytest.raises(ProblemError):
        check_maintenance(CLOSED, plan, Overrides(), open_run("demo").record)
    kept = plan.model_copy(update={"publications": (publication.model_copy(update={"action": "keep"}),)})
    check_maintenance(CLOSED, kept, Overrides(), open_run("demo").record)


@pytest.mark.parametrize("action", ["keep", "defer", "skip"])
def test_a_plan_without_changes_is_never_refused(action: Action) -> None:
    gate = check_maintenance(CLOSED, a_plan(action), Overrides(), open_run("demo").record)
    assert gate() is not None


def test_the_gate_of_an_open_lab_is_open() -> None:
    assert check_maintenance(OPEN, a_plan("update"), Overrides(), open_run("demo").record)() is None


def test_an_ignored_freeze_is_recorded_with_its_reason() -> None:
    journal = open_run("demo")
    gate = check_maintenance(CLOSED, a_plan("update"), Overrides(ignore_freeze="a card is on fire"), journal.record)
    assert gate() is None
    (line,) = (journal.folder / "events.jsonl").read_text().splitlines()
    assert json.loads(line)["event"]["text"].endswith(": exams; ignored: a card is on fire")


def test_a_reason_without_a_freeze_is_not_recorded() -> None:
    journal = open_run("demo")
    check_maintenance(OPEN, a_plan("update"), Overrides(ignore_freeze="just in case"), journal.record)
    assert (journal.folder / "events.jsonl").read_text() == ""


@pytest.mark.parametrize("verb", ["rollout", "upgrade", "rollback", "plan"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--when-busy", "force"], "force stops running work, so it needs a reason: --reason TEXT"),
        (["--when-busy", "force", "--reason", " "], "needs a reason"),
        (["--when-busy", "wait"], "invalid duration '': write it like 90s, 30m, 2h or 1d"),
        (["--when-busy", "ask"], "'ask' is none of defer, wait:DURATION (such as wait:2h) and force"),
        (["--reason", "exam"], "--reason is for --when-busy force and --ignore-freeze, and neither is given"),
        (["--when-busy", "wait:2h", "--reason", "exam"], "--reason is for"),
        (["--ignore-freeze"], "--ignore-freeze needs a reason: --reason TEXT"),
    ],
)
def test_an_incomplete_override_is_a_usage_error(verb: str, words: list[str], said: str) -> None:
    ran = run(verb, "ai-lab", *words)
    assert ran.exit_code == 2
    assert said in ran.stderr


def test_a_saved_plan_has_its_own_busy_policy(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("all: {hosts: {n1: {}}}")
    (tmp_path / "lab.yml").write_text(
        'name: demo\nmirror: {address: "127.0.0.1:1"}\nregistry: {address: "127.0.0.1:1"}\n'
    )
    (tmp_path / "plan.json").write_text(a_plan("update").model_dump_json())
    ran = run("rollout", str(tmp_path), "--plan", str(tmp_path / "plan.json"), "--when-busy", "wait:2h")
    assert ran.exit_code == 2
    assert "the saved plan has its own --when-busy" in ran.stderr
