"""A controller that is killed in any phase of a run: the resumed run ends like one that was not interrupted."""

import json
from pathlib import Path

import pytest

from tests.cli.controlled_lab import COMMITTED, NODES, ControlledLab, Controllers, ended

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
ROLLED_BACK = {node: {"generation": 1, "state": "committed", "image": "old"} for node in NODES}


@pytest.mark.parametrize("moment", MOMENTS)
def test_resume_finishes_a_killed_rollout(lab: ControlledLab, moment: str) -> None:
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
def test_resume_finishes_a_killed_rollback(controllers: Controllers, tmp_path: Path, moment: str) -> None:
    lab = ControlledLab(controllers, tmp_path, generation=2)
    assert lab.run("rollback", "--die", moment).returncode == -9
    assert lab.run("resume").returncode == 0
    assert lab.node_states() == ROLLED_BACK
    assert lab.fleet.claims_by_node() == dict.fromkeys(NODES)


@pytest.mark.parametrize("moment", ["claim after n2", "stage before n1", "switch before n2"])
def test_resume_finishes_a_killed_resume(lab: ControlledLab, moment: str) -> None:
    lab.run("rollout", "--die", "stage before n1")
    assert lab.run("resume", "--die", moment).returncode == -9
    assert lab.run("resume").returncode == 0
    assert lab.node_states() == COMMITTED


def test_nodes_claimed_by_a_killed_run_refuse_another_run_and_name_the_first(lab: ControlledLab) -> None:
    lab.run("rollout", "--die", "switch before n1")
    other = lab.run("rollout")
    assert other.returncode == 5, other.stderr
    (problem,) = json.loads(other.stdout)["problems"]
    assert problem["code"] == "claimed"
    assert "provision resume" in problem["fix"]
    assert lab.run("resume").returncode == 0
    assert lab.node_states() == COMMITTED


def test_a_second_run_of_the_same_user_is_refused_before_it_contacts_a_node(lab: ControlledLab, tmp_path: Path) -> None:
    with lab.start("rollout", "stage before n1") as first:
        second = lab.run("rollout")
        (tmp_path / "go").touch()
        first.communicate()
    (problem,) = json.loads(second.stdout)["problems"]
    assert (second.returncode, problem["code"]) == (5, "locked")
    assert f"process {first.pid}" in problem["what"]
    assert first.returncode == 0
    assert lab.node_states() == COMMITTED
