"""The next semester on two machines, one of which somebody works on, told as one story."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.journeys.conftest import QUICK, Story, Told, running_story
from tests.lab.demo import http_status, ssh_command, student_key
from tests.lab.engine import Engine
from tests.lab.gpus import profile_text
from tests.made_wheel import a_wheel

pytestmark = pytest.mark.lab

CARD = "rtx4090-570"
BUSY = f"{profile_text(CARD)}\nproc = 4242:1024:python train.py\n"
HOME = "/srv/provisioner/homes/student"
Seats = dict[str, dict[str, Any]]
NOTICE = "torch 2.10 comes tonight: 考试 is over"
FOREVER: dict[str, object] = {
    "freeze": [{"from": "2020-01-01", "to": "2199-12-31", "why": "exams"}],
    "timezone": "Asia/Shanghai",
}

# In the place of ssh: notes the folder in which Ansible has it keep its connections.
NOTING_SSH = """#!/bin/sh
for word; do
    case $word in ControlPath=*) readlink -f "$(dirname "$(echo "${word#*=}" | tr -d '"')")" >>%s ;; esac
done
exec %s "$@"
"""

# What a student finds: torch, what they have installed themselves, and where the next package would go.
LOOK = """
import importlib.util, site, torch
own = importlib.util.find_spec("labmate")
print(torch.__version__, own is not None, site.getuserbase())
"""
# The same, as a notebook finds it: a real kernel, started from its specification.
IN_A_KERNEL = f"""
import nbclient, nbformat
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell({LOOK!r})])
nbclient.NotebookClient(notebook, kernel_name="python3").execute()
print(notebook.cells[0].outputs[0].text)
"""


@pytest.fixture(scope="module")
def term(testbed: Engine, program: Path) -> Iterator[Story]:
    """Two nodes with last semester's torch, and a student who has made themselves at home."""
    with running_story(testbed, program, [CARD, CARD], image={"torch": "2.8.0"}) as story:
        told = story.tell("rollout", "--yes")
        assert told.code == 0, told.people
        move_in(story)
        yield story


def move_in(story: Story) -> None:
    wheel = a_wheel(story.lab.folder, "labmate", "1.0")
    for node in story.lab.nodes:
        story.lab.engine.docker("cp", str(wheel), f"{node.container}:{HOME}/{wheel.name}")
        node.exec("sh", "-c", f"echo thesis >{HOME}/thesis.txt; chown 1000:1000 {HOME}/thesis.txt")


def seats(story: Story) -> Seats:
    """Node -> the ways in with token, port and key, the account and the home: what no upgrade may change."""
    document = story.tell("status", "--urls").document
    return {seat["node"]: _seat(story, seat, document["urls"][seat["node"]]) for seat in document["seats"]}


def _seat(story: Story, seat: dict[str, Any], url: str) -> dict[str, Any]:
    assert http_status(url) == 200
    owner = story.lab.node(seat["node"]).exec("stat", "-c", "%u:%g:%a", HOME)
    inside = in_ssh(story, seat["access"], "id; cat ~/thesis.txt")
    return {"url": url, "access": seat["access"], "owner": owner, "inside": inside}


def in_ssh(story: Story, access: dict[str, str], command: str) -> str:
    ssh = ssh_command(access["ssh"], access["host_key"], student_key(story.lab), story.lab.folder)
    done = subprocess.run([*ssh, command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_jupyter(story: Story, node: str, *command: str) -> str:
    """In the container of JupyterLab, as the student."""
    label = ("docker", "ps", "-q", "--filter", "label=provisioner.service=jupyter")
    container = story.lab.node(node).exec(*label).strip()
    return story.lab.node(node).exec("docker", "exec", container, *command)


def found(story: Story, node: str, access: dict[str, str]) -> list[list[str]]:
    """Torch, own packages and their place: in an SSH session, in a terminal of JupyterLab, in a kernel."""
    answers = [
        in_ssh(story, access, f"python -c '{LOOK}'"),
        in_jupyter(story, node, "bash", "-lc", f"python -c '{LOOK}'"),
        in_jupyter(story, node, "/opt/provisioner/jupyter/bin/python", "-c", IN_A_KERNEL),
    ]
    return [answer.split() for answer in answers]


def containers(story: Story, node: str) -> str:
    return story.lab.node(node).exec("docker", "ps", "-q", "--no-trunc", "--filter", "label=provisioner.seat")


def states(told: Told) -> dict[str, str]:
    return {record["node"]: record["state"] for record in told.document["nodes"]}


def wish(story: Story, **over: object) -> None:
    path = story.folder / "lab.yml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | over, sort_keys=False))


@pytest.fixture(scope="module")
def before(term: Story) -> Seats:
    found = seats(term)
    for seat in found.values():
        in_ssh(term, seat["access"], "pip install -q --user --no-index ~/labmate-*.whl")
    return found


def test_what_a_student_installs_is_found_wherever_they_work(term: Story, before: Seats) -> None:
    answers = found(term, "node1", before["node1"]["access"])
    base = answers[0][2]
    assert base.startswith("/home/student/.provisioner/python/2.8.0-")
    assert answers == [["2.8.0", "True", base]] * 3


def test_a_look_at_an_upgrade_changes_nothing(term: Story) -> None:
    lock, running = (term.folder / "lab.lock").read_bytes(), containers(term, "node1")
    told = term.tell("upgrade", "--torch", "2.10.0", "--check")
    assert (told.code, told.document["schema"]) == (0, "provisioner/upgrade/1"), told.people
    change = told.document["change"]
    assert (change["torch_before"], change["torch_after"], change["left_behind"]) == ("2.8.0", "2.10.0", {})
    assert [move["node"] for move in change["moves"]] == ["node1", "node2"]
    assert [step["action"] for step in told.document["plan"]["steps"]] == ["update", "update"]
    assert ((term.folder / "lab.lock").read_bytes(), containers(term, "node1")) == (lock, running)


def test_in_a_freeze_nothing_is_changed_and_it_says_why(term: Story) -> None:
    lock, running = (term.folder / "lab.lock").read_bytes(), containers(term, "node1")
    wish(term, rollout=QUICK | FOREVER)
    try:
        told = term.tell("upgrade", "--torch", "2.10.0", "--yes")
    finally:
        wish(term, rollout=QUICK)
    (problem,) = told.document["problems"]
    assert (told.code, problem["code"]) == (4, "frozen"), told.people
    assert "exams" in problem["what"]
    assert ((term.folder / "lab.lock").read_bytes(), containers(term, "node1")) == (lock, running)


@pytest.fixture(scope="module")
def upgraded(term: Story, before: Seats) -> Told:
    """To 2.10, while somebody trains on node2."""
    assert before.keys() == {"node1", "node2"}
    term.lab.node("node2").set_profile(BUSY)
    running = containers(term, "node2")
    ssh = term.lab.folder / "noting" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(NOTING_SSH % (connections(term), shutil.which("ssh")))
    ssh.chmod(0o755)
    noting = {"PATH": f"{ssh.parent}:{os.environ['PATH']}"}
    told = term.tell("upgrade", "--torch", "2.10.0", "--notice", NOTICE, "--yes", env=noting)
    assert containers(term, "node2") == running
    return told


def connections(story: Story) -> Path:
    """The folder of ssh's connections, once for each time that it was called in an upgrade."""
    return story.lab.folder / "connections.txt"


def test_a_node_is_called_once_for_a_whole_upgrade(term: Story, upgraded: Told) -> None:
    assert upgraded.code == 4
    folders = connections(term).read_text().splitlines()
    assert len(folders) > len(term.lab.nodes)
    assert len(set(folders)) == 1


def test_the_seat_that_someone_works_on_is_left_alone(term: Story, before: Seats, upgraded: Told) -> None:
    assert (upgraded.code, states(upgraded)) == (4, {"node1": "committed", "node2": "deferred"}), upgraded.people
    assert found(term, "node2", before["node2"]["access"])[0][:2] == ["2.8.0", "True"]


def test_nor_is_it_taken_down(term: Story, upgraded: Told) -> None:
    assert upgraded.code == 4
    running = containers(term, "node2")
    told = term.tell("remove", "--limit", "node2", "--yes")
    assert (told.code, states(told)) == (4, {"node2": "deferred"}), told.people
    assert [problem["code"] for problem in told.document["nodes"][0]["problems"]] == ["busy"]
    assert containers(term, "node2") == running


def test_the_lock_is_the_new_one_and_the_one_before_is_kept(term: Story, upgraded: Told) -> None:
    lock = json.loads((term.folder / "lab.lock").read_text())
    assert (lock["torch"], set(lock["nodes"])) == ("2.10.0", {"node1", "node2"})
    assert json.loads(lock_before(term, upgraded).read_text())["torch"] == "2.8.0"
    assert 'torch: "2.10.0"' in upgraded.people, "lab.yml wishes for another one"


def lock_before(story: Story, told: Told) -> Path:
    (kept,) = story.lab.folder.glob(f"xdg_state_home/provisioner/*/runs/{told.document['run']}/lock-before.json")
    return kept


def test_packages_of_the_old_torch_do_not_shadow_the_new_one_and_stay_for_the_way_back(
    term: Story, before: Seats, upgraded: Told
) -> None:
    assert upgraded.code == 4
    access = before["node1"]["access"]
    answers = found(term, "node1", access)
    base = answers[0][2]
    assert base.startswith("/home/student/.provisioner/python/2.10.0-")
    assert answers == [["2.10.0", "False", base]] * 3
    assert "labmate" in in_ssh(term, access, "ls ~/.provisioner/python/2.8.0-*/lib/python3*/site-packages")


def test_the_notice_is_told_in_every_new_shell_and_survives_the_switch(
    term: Story, before: Seats, upgraded: Told
) -> None:
    assert upgraded.code == 4
    assert f"*** {NOTICE}" in in_jupyter(term, "node1", "bash", "-lic", "true")
    assert f"*** {NOTICE}" in in_ssh(term, before["node1"]["access"], "bash -lic true")
    assert http_status(before["node1"]["url"].partition("/lab")[0] + "/static/notice.txt") == 200
    cleared = term.tell("notify", "--clear", "--limit", "node1")
    assert (cleared.code, states(cleared)) == (0, {"node1": "committed"}), cleared.people
    assert in_jupyter(term, "node1", "cat", "/etc/provisioner/notice/notice.txt") == ""


def test_force_stops_the_work_that_was_shown_and_keeps_the_reason(term: Story, before: Seats, upgraded: Told) -> None:
    assert upgraded.code == 4
    forced = ("--when-busy", "force", "--reason", "exam at noon")
    plan = term.tell("plan", *forced).document
    step = next(step for step in plan["steps"] if step["node"] == "node2")
    assert (step["action"], [problem["code"] for problem in step["problems"]]) == ("update", ["stops_work"])
    assert plan["when_busy"] == {"policy": "force", "seconds": 0, "reason": "exam at noon"}
    told = term.tell("rollout", *forced, "--yes")
    assert (told.code, states(told)) == (0, {"node1": "unchanged", "node2": "committed"}), told.people
    assert found(term, "node2", before["node2"]["access"])[0][:2] == ["2.10.0", "False"]


def test_all_but_the_image_is_as_before(term: Story, before: Seats, upgraded: Told) -> None:
    assert upgraded.code == 4
    assert seats(term) == before


def test_an_upgrade_to_what_runs_changes_nothing_and_says_so(term: Story, upgraded: Told) -> None:
    assert upgraded.code == 4
    term.lab.node("node2").set_profile(profile_text(CARD))
    done = term.command.run("upgrade", str(term.folder), "--torch", "2.10.0", "--yes")
    assert done.returncode == 0, done.stderr
    assert "The lock stays as it is" in done.stdout
    assert "No changes. Every seat runs what the lock says." in done.stdout


def test_the_way_back_leads_to_the_packages_of_that_time(term: Story, before: Seats, upgraded: Told) -> None:
    (term.folder / "lab.lock").write_text(lock_before(term, upgraded).read_text())
    told = term.tell("rollout", "--limit", "node1", "--yes")
    assert (told.code, states(told)) == (0, {"node1": "committed"}), told.people
    assert [answer[:2] for answer in found(term, "node1", before["node1"]["access"])] == [["2.8.0", "True"]] * 3
