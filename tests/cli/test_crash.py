"""A controller that is killed in any phase of a run: the resumed run ends like one that was not interrupted."""

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
COMMITTED = {node: {"generation": 2, "state": "committed", "image": "new"} for node in NODES}
ROLLED_BACK = {node: {"generation": 1, "state": "committed", "image": "old"} for node in NODES}


class ControlledLab:
    """A lab of three nodes that run generation `generation`, and controller processes for it."""

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

    def node_states(self) -> dict[str, dict[str, Any]]:
        return {node: {k: self.fleet.read(node)[k] for k in ("generation", "state", "image")} for node in NODES}


def ended(document: dict[str, Any]) -> dict[str, str]:
    return {record["node"]: record["state"] for record in document["nodes"]}


@pytest.mark.parametrize("moment", MOMENTS)
def test_resume_finishes_a_killed_rollout(tmp_path: Path, moment: str) -> None:
    lab = ControlledLab(tmp_path)
    killed = lab.run("rollout", "--die", moment)
    assert (killed.returncode, killed.stdout) == (-9, "")
    # Before the confirmation there is nothing to resume, and a new run is not blocked.
    first = lab.run("resume" if moment != "probe before n1" else "rollout")
    assert (first.returncode, ended(json.loads(first.stdout))) == (0, dict.fromkeys(NODES, "committed")), first.stderr
    assert lab.node_states() == COMMITTED
    assert lab.fleet.claims_by_node() == dict.fromkeys(NODES)
    assert ended(lab.report()) == dict.fromkeys(NODES, "committed")
    again = lab.run("resume")
    assert (again.returncode, json.loads(again.stdout)["nodes"]) == (0, [])
    assert "Traceback" not in first.stderr + again.stderr


@pytest.mark.parametrize(
    "moment", ["claim after n1", "roll_back before n1", "roll_back after n1", "roll_back after n3"]
)
def test_resume_finishes_a_killed_rollback(tmp_path: Path, moment: str) -> None:
    lab = ControlledLab(tmp_path, generation=2)
    assert lab.run("rollback", "--die", moment).returncode == -9
    assert lab.run("resume").returncode == 0
    assert lab.node_states() == ROLLED_BACK
    assert lab.fleet.claims_by_node() == dict.fromkeys(NODES)


@pytest.mark.parametrize("moment", ["claim after n2", "stage before n1", "switch before n2"])
def test_resume_finishes_a_killed_resume(tmp_path: Path, moment: str) -> None:
    lab = ControlledLab(tmp_path)
    lab.run("rollout", "--die", "stage before n1")
    assert lab.run("resume", "--die", moment).returncode == -9
    assert lab.run("resume").returncode == 0
    assert lab.node_states() == COMMITTED


def test_nodes_claimed_by_a_killed_run_refuse_another_run_and_name_the_first(tmp_path: Path) -> None:
    lab = ControlledLab(tmp_path)
    lab.run("rollout", "--die", "switch before n1")
    other = lab.run("rollout")
    assert other.returncode == 5, other.stderr
    (problem,) = json.loads(other.stdout)["problems"]
    assert problem["code"] == "claimed"
    assert "provision resume" in problem["fix"]
    assert lab.run("resume").returncode == 0
    assert lab.node_states() == COMMITTED


def test_a_second_run_of_the_same_user_is_refused_before_it_contacts_a_node(tmp_path: Path) -> None:
    lab = ControlledLab(tmp_path)
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
    assert lab.node_states() == COMMITTED
