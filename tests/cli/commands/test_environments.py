"""Named environments at the command line: locked, kept by an upgrade, listed and removed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete

from provisioner.adapters.lab.directory import LabDirectory
from provisioner.adapters.lab.lockfile import read_lock, write_lock
from provisioner.cli.app import provision
from provisioner.cli.run_context import hold_lab
from provisioner.domain.lab.lock import LockedEnvironment, Lockfile
from provisioner.domain.values.sync import SyncState
from provisioner.workflow.lock.lock import Choices, choose_all
from tests.builders import a_gpu, a_lock, a_node
from tests.cli.commands.people import LAB, Nodes, RosterLab
from tests.cli.running import document, run
from tests.workflow.lock.test_lock import ALL, DATA, MIDDLE, OLD, ABuilder, AMirror

ENVIRONMENTS = "environments: {nlp: {torch: '2.10.*'}}\n"
KEPT = a_lock().model_copy(
    update={
        "environments": {
            "2026s": LockedEnvironment(torch="2.8.0", images=a_lock().images, kept_from="default"),
            "gone": LockedEnvironment(),
        }
    }
)


class EnvironmentLab:
    """A lab of two nodes whose mirror has `tags`, and whose images need no build."""

    def __init__(self, path: Path) -> None:
        self.path, self.tags = path, dict(ALL)

    def write(self, settings: str, roster: str | None = None) -> None:
        people = "people: {roster: roster.csv}\n" if roster is not None else ""
        (self.path / "lab.yml").write_text(LAB + settings + people)
        (self.path / "roster.csv").write_text(roster or "")

    def lock(self) -> Lockfile:
        found = read_lock(self.path / "lab.lock")
        assert found is not None
        return found

    def choose(self, directory: LabDirectory, probed: Any, _own: Any, on_event: Any, **_: Any) -> Choices:
        mirror = AMirror(self.tags)
        return choose_all(directory.lab, directory.people, probed, mirror, DATA, on_event)


@contextmanager
def open_nodes(*_: Any) -> Iterator[Nodes]:
    yield Nodes()


@pytest.fixture
def lab(roster_lab: RosterLab, monkeypatch: pytest.MonkeyPatch) -> EnvironmentLab:
    made, cli = EnvironmentLab(roster_lab.path), "provisioner.cli"
    monkeypatch.setenv("XDG_STATE_HOME", str(roster_lab.path.parent / "state"))
    monkeypatch.setattr(f"{cli}.wiring._choose", made.choose)
    monkeypatch.setattr(f"{cli}.wiring.builder", lambda *_, **__: ABuilder())
    monkeypatch.setattr(f"{cli}.commands.lock.fleet", lambda *_: Nodes())
    monkeypatch.setattr(f"{cli}.commands.plan.fleet", lambda *_: Nodes())
    monkeypatch.setattr(f"{cli}.commands.upgrade.open_fleet", open_nodes)
    monkeypatch.setattr(f"{cli}.commands.upgrade.lab_fleet", lambda *_: Nodes())
    (made.path / "lab.lock").unlink()
    made.write(ENVIRONMENTS)
    return made


def registry_of(lab: EnvironmentLab) -> None:
    """Name in lab.yml the registry that the builder's images lie in."""
    text = (lab.path / "lab.yml").read_text()
    (lab.path / "lab.yml").write_text(text.replace("127.0.0.1:5998", "registry.lab:5201"))


def test_a_lock_has_every_environment_and_is_the_same_again(lab: EnvironmentLab) -> None:
    done = run("lock", str(lab.path))
    assert done.exit_code == 0, done.output
    assert [environment.torch for environment in lab.lock().all_environments.values()] == ["2.11.0", "2.10.0"]
    assert "\nEnvironment nlp\n" in done.stdout
    again = run("lock", str(lab.path))
    assert "No changes: the lock holds this already." in again.stdout
    lab.write("")
    without = run("lock", str(lab.path))
    assert "environment nlp goes: lab.yml does not name it any more" in without.stdout
    assert '-    "nlp": {' in without.stdout
    assert lab.lock().environments == {}
    assert "Environment" not in run("lock", str(lab.path)).stdout


@pytest.mark.parametrize(("roster", "code"), [("id,node\nanna,gpu1\n", 1), ("id,node,environment\nanna,gpu1,nlp\n", 0)])
def test_a_node_without_an_image_of_an_environment_that_it_may_run_is_exit_1(
    lab: EnvironmentLab, monkeypatch: pytest.MonkeyPatch, roster: str, code: int
) -> None:
    """No image of nlp runs on gpu2, which may run it while nothing names nlp, and not once a row names gpu1 for it."""
    card = a_gpu("gpu2", capability="12.0", name="NVIDIA GeForce RTX 5090")
    nodes = Nodes({"gpu2": a_node("gpu2", gpus=(card,))})
    monkeypatch.setattr("provisioner.cli.commands.lock.fleet", lambda *_: nodes)
    lab.tags["2.6.0-cuda12.4-cudnn9-runtime"] = SyncState.COMPLETE
    lab.write("environments: {nlp: {torch: '2.6.0'}}\ngroups: {student: {environments: [default, nlp]}}\n", roster)
    done = run("lock", str(lab.path))
    assert done.exit_code == code, done.output
    assert lab.lock().environments["nlp"].unserved == (("gpu2",) if code else ())


def test_torch_of_the_command_line_is_that_of_image_and_of_those_that_follow_it(lab: EnvironmentLab) -> None:
    lab.write("environments: {nlp: {torch: '2.10.*'}, cv: {}}\n")
    assert run("lock", str(lab.path), "--torch", "2.8.0").exit_code == 0
    found = lab.lock().all_environments
    assert {name: environment.torch for name, environment in found.items()} == {
        "default": "2.8.0",
        "cv": "2.8.0",
        "nlp": "2.10.0",
    }


def test_a_plan_without_a_lock_shows_every_selection(lab: EnvironmentLab) -> None:
    assert "\nEnvironment nlp\n" in run("plan", str(lab.path)).stdout
    found = document(run("plan", str(lab.path), "--json"))
    assert (found["torch"], found["environments"]["nlp"]["torch"]) == ("2.11.0", "2.10.0")
    lab.write("")
    assert "environments" not in document(run("plan", str(lab.path), "--json"))


def test_an_upgrade_shows_what_it_would_keep(lab: EnvironmentLab) -> None:
    lab.write("")
    registry_of(lab)
    lab.tags = {MIDDLE: SyncState.COMPLETE, OLD: SyncState.COMPLETE}
    assert run("lock", str(lab.path)).exit_code == 0
    before = lab.lock()
    lab.tags = dict(ALL)
    shown = run("upgrade", str(lab.path), "--check", "--keep-as", "2026s")
    assert shown.exit_code == 0, shown.output
    assert "torch 2.10.0 -> 2.11.0" in shown.stdout
    assert "environment 2026s: the images of before stay under this name, torch 2.10.0" in shown.stdout
    assert "Environment 2026s, kept from default" in shown.stdout
    found = document(run("upgrade", str(lab.path), "--check", "--keep-as", "2026s", "--json"))
    assert found["change"]["environments"]["2026s"]["state"] == "kept"
    assert found["lock"]["environments"]["2026s"]["kept_from"] == "default"
    assert "environments" not in document(run("upgrade", str(lab.path), "--check", "--json"))["change"]
    assert lab.lock() == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nlp", "--keep-as nlp: lab.yml has an environment nlp"),
        ("default", "--keep-as default: lab.yml has an environment default"),
        ("2026s", "--keep-as 2026s: lab.lock has an environment 2026s that was kept before"),
        ("Spring 2026", "is not the name of an environment"),
        ("../x", "is not the name of an environment"),
        ("", "is not the name of an environment"),
        ("x\n", "is not the name of an environment"),
    ],
)
def test_a_name_that_cannot_be_kept_is_exit_2(lab: EnvironmentLab, name: str, said: str) -> None:
    write_lock(lab.path / "lab.lock", KEPT)
    done = run("upgrade", str(lab.path), "--keep-as", name)
    assert done.exit_code == 2
    assert said in done.stderr


def test_environments_are_listed(lab: EnvironmentLab) -> None:
    write_lock(lab.path / "lab.lock", KEPT)
    done = run("environments", "list", str(lab.path))
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["nlp", "lab.yml,", "not", "locked", "yet"] in rows
    assert any(row[:2] == ["2026s", "2.8.0"] and row[-3:] == ["kept", "from", "default"] for row in rows)
    assert "not in lab.yml any more: goes with the next lock" in done.stdout
    found = document(run("environments", "list", str(lab.path), "--json"))
    assert found["schema"] == "provisioner/environments/1"
    assert [one["name"] for one in found["environments"]] == ["default", "nlp", "2026s", "gone"]


@pytest.mark.parametrize(
    ("settings", "roster", "name", "code"),
    [
        ("", None, "default", "is_default"),
        (ENVIRONMENTS, None, "nlp", "in_lab_yml"),
        ("", None, "gone", "not_kept"),
        ("", None, "2026w", "unknown_environment"),
        ("seat: {environment: 2026s}\n", None, "2026s", "environment_in_use"),
        ("", "id,environment\nanna,2026s\n", "2026s", "environment_in_use"),
    ],
)
def test_what_cannot_be_removed_stays(
    lab: EnvironmentLab, settings: str, roster: str | None, name: str, code: str
) -> None:
    write_lock(lab.path / "lab.lock", KEPT)
    lab.write(settings, roster)
    done = run("environments", "remove", str(lab.path), name, "--yes")
    assert (done.exit_code, code in done.stderr) == (2, True), done.output
    assert lab.lock() == KEPT


def test_a_kept_environment_is_removed_after_a_confirmation(lab: EnvironmentLab) -> None:
    write_lock(lab.path / "lab.lock", KEPT)
    refused = run("environments", "remove", str(lab.path), "2026s")
    assert (refused.exit_code, lab.lock()) == (2, KEPT)
    done = run("environments", "remove", str(lab.path), "2026s", "--yes", "--json")
    assert done.exit_code == 0, done.output
    assert list(lab.lock().environments) == ["gone"]
    assert lab.lock().model_copy(update={"environments": KEPT.environments}) == KEPT
    assert [one["name"] for one in document(done)["environments"]] == ["default", "nlp", "gone"]
    assert "keep its image until the next rollout" in done.stderr
    assert "unknown_environment" in run("environments", "remove", str(lab.path), "2026s", "--yes").stderr


def test_kept_names_are_completed(lab: EnvironmentLab) -> None:
    write_lock(lab.path / "lab.lock", KEPT)
    completion = ShellComplete(provision, {}, "provision", "_PROVISION_COMPLETE")

    def names(where: Path) -> list[str]:
        found = completion.get_completions(["environments", "remove", str(where)], "2")
        return [item.value for item in found]

    assert names(lab.path) == ["2026s"]
    (lab.path / "lab.lock").write_text("{")
    assert names(lab.path) == names(lab.path.parent / "none") == []


def test_nothing_is_removed_while_a_run_holds_the_lab(lab: EnvironmentLab) -> None:
    write_lock(lab.path / "lab.lock", KEPT)
    with hold_lab("ml", "another-run", "upgrade"):
        done = run("environments", "remove", str(lab.path), "2026s", "--yes")
    assert (done.exit_code, lab.lock()) == (5, KEPT), done.output
    assert "another-run" in done.stderr


def test_a_damaged_lock_is_reported_with_its_place(lab: EnvironmentLab) -> None:
    (lab.path / "lab.lock").write_text("<<<<<<< HEAD\n")
    for words in (["list", str(lab.path)], ["remove", str(lab.path), "2026s", "--yes"]):
        done = run("environments", *words)
        assert (done.exit_code, "lab.lock:1:1: not JSON" in done.stderr) == (2, True), done.output
