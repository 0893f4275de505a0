"""The controller is killed in every phase of a run: what is resumed comes to the end of a run that nobody disturbed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.fake_fleet import FakeFleet

NODES = ("n1", "n2", "n3")
MOMENTS = [
    "probe before n1",
    "claim before n1",
    "claim after n2",
    "claim after n3",
    "stage before n1",
    "stage after n1",
    "switch before n1",
    "switch after n1",
    "stage before n2",
    "stage after n2",
    "stage after n3",
    "switch before n2",
    "switch after n2",
    "switch before n3",
    "switch after n3",
]
UNDISTURBED = {node: {"generation": 2, "state": "committed", "image": "new"} for node in NODES}
GONE_BACK = {node: {"generation": 1, "state": "committed", "image": "old"} for node in NODES}


class Controlled:
    """A lab of three nodes that run generation `generation`, and processes that control it."""

    def __init__(self, folder: Path, generation: int = 1) -> None:
        self.state, self.nodes = folder / "state", folder / "nodes"
        self.fleet = FakeFleet(self.nodes).add(*NODES, generation=generation)

    def run(self, verb: str, *how: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "tests.cli.controller", verb, str(self.nodes), *how]
        environment = os.environ | {"XDG_STATE_HOME": str(self.state)}
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)

    def report(self) -> dict[str, Any]:
        (path,) = self.state.glob("provisioner/demo/runs/*/report.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def stands(self) -> dict[str, dict[str, Any]]:
        return {node: {k: self.fleet.read(node)[k] for k in ("generation", "state", "image")} for node in NODES}


def ended(document: dict[str, Any]) -> dict[str, str]:
    return {record["node"]: record["state"] for record in document["nodes"]}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_rollout_that_was_killed_is_finished(tmp_path: Path, moment: str) -> None:
    lab = Controlled(tmp_path)
    killed = lab.run("rollout", "--die", moment)
    assert (killed.returncode, killed.stdout) == (-9, "")
    # Before anything was agreed there is nothing to finish, and nobody is in the way of beginning again.
    first = lab.run("resume" if moment != "probe before n1" else "rollout")
    assert (first.returncode, ended(json.loads(first.stdout))) == (0, dict.fromkeys(NODES, "committed")), first.stderr
    assert lab.stands() == UNDISTURBED
    assert lab.fleet.alive() == dict.fromkeys(NODES)
    assert ended(lab.report()) == dict.fromkeys(NODES, "committed")
    again = lab.run("resume")
    assert (again.returncode, json.loads(again.stdout)["nodes"]) == (0, [])
    assert "Traceback" not in first.stderr + again.stderr


@pytest.mark.parametrize(
    "moment", ["claim after n1", "roll_back before n1", "roll_back after n1", "roll_back after n3"]
)
def test_a_rollback_that_was_killed_is_finished(tmp_path: Path, moment: str) -> None:
    lab = Controlled(tmp_path, generation=2)
    assert lab.run("rollback", "--die", moment).returncode == -9
    assert lab.run("resume").returncode == 0
    assert lab.stands() == GONE_BACK
    assert lab.fleet.alive() == dict.fromkeys(NODES)


@pytest.mark.parametrize("moment", ["claim after n2", "stage before n1", "switch before n2"])
def test_one_that_was_killed_while_it_resumed_is_resumed(tmp_path: Path, moment: str) -> None:
    lab = Controlled(tmp_path)
    lab.run("rollout", "--die", "stage before n1")
    assert lab.run("resume", "--die", moment).returncode == -9
    assert lab.run("resume").returncode == 0
    assert lab.stands() == UNDISTURBED


def test_what_a_killed_run_holds_is_refused_to_another_and_says_whose_it_is(tmp_path: Path) -> None:
    lab = Controlled(tmp_path)
    lab.run("rollout", "--die", "switch before n1")
    other = lab.run("rollout")
    assert other.returncode == 5, other.stderr
    (problem,) = json.loads(other.stdout)["problems"]
    assert problem["code"] == "claimed"
    assert "provision resume" in problem["fix"]
    assert lab.run("resume").returncode == 0
    assert lab.stands() == UNDISTURBED


def test_two_runs_of_one_person_meet_before_they_touch_a_node(tmp_path: Path) -> None:
    lab = Controlled(tmp_path)
    argv = [sys.executable, "-m", "tests.cli.controller", "rollout", str(lab.nodes), "--wait", "stage before n1"]
    environment = os.environ | {"XDG_STATE_HOME": str(lab.state)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as first:
        assert first.stderr is not None
        while "waiting" not in first.stderr.readline():
            pass
        second = lab.run("rollout")
        (tmp_path / "go").touch()
        first.communicate()
    (problem,) = json.loads(second.stdout)["problems"]
    assert (second.returncode, problem["code"]) == (5, "locked")
    assert f"process {first.pid}" in problem["what"]
    assert first.returncode == 0
    assert lab.stands() == UNDISTURBED
