"""Upgrade of two nodes, one of which is busy. Each test starts from the state that the one before it left."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.journeys.conftest import COMPLETE, QUICK, CommandResult, Site, running_site
from tests.lab.demo import http_status, ssh_command, student_key
from tests.lab.engine import Engine
from tests.lab.gpus import profile_text
from tests.made_wheel import a_wheel

pytestmark = pytest.mark.lab

PROFILE = "rtx4090-570"
BUSY = f"{profile_text(PROFILE)}\nproc = 4242:1024:python train.py\n"
HOME = "/srv/provisioner/homes/student"
Seats = dict[str, dict[str, Any]]
NOTICE = "torch 2.10 comes tonight: 考试 is over"
FREEZE: dict[str, object] = {
    "freeze": [{"from": "2020-01-01", "to": "2199-12-31", "why": "exams"}],
    "timezone": "Asia/Shanghai",
}

# Wrapper of ssh that records the folder of Ansible's shared connections (ControlPath).
RECORDING_SSH = """#!/bin/sh
for word; do
    case $word in ControlPath=*) readlink -f "$(dirname "$(echo "${word#*=}" | tr -d '"')")" >>%s ;; esac
done
exec %s "$@"
"""

INSTALL = "pip install -q --user --no-index --break-system-packages"  # the base's Python is Debian's
# Prints whether the student's package is found, and where the next package would be installed.
INSPECT = """
import importlib.util, site
print(importlib.util.find_spec("labmate") is not None, site.getuserbase())
"""


@pytest.fixture(scope="module")
def site(testbed: Engine, program: Path) -> Iterator[Site]:
    """Two nodes with an older torch, and homes with a file and a wheel of the student."""
    image = COMPLETE | {"torch": "2.8.0"}
    with running_site(testbed, program, [PROFILE, PROFILE], bases=["2.8.0", "2.10.0"], image=image) as site:
        result = site.run_json("rollout", "--yes")
        assert result.code == 0, result.output
        add_student_files(site)
        yield site


def add_student_files(site: Site) -> None:
    wheel = a_wheel(site.lab.folder, "labmate", "1.0")
    for node in site.lab.nodes:
        site.lab.engine.docker("cp", str(wheel), f"{node.container}:{HOME}/{wheel.name}")
        node.exec("sh", "-c", f"echo thesis >{HOME}/thesis.txt; chown 1000:1000 {HOME}/thesis.txt")


def list_seats(site: Site) -> Seats:
    """Node -> URL and SSH access, account and home: what no upgrade may change."""
    document = site.run_json("status", "--urls").document
    return {seat["node"]: describe_seat(site, seat, document["urls"][seat["node"]]) for seat in document["seats"]}


def describe_seat(site: Site, seat: dict[str, Any], url: str) -> dict[str, Any]:
    page, _, token = url.partition("?token=")
    assert http_status(page, token) == 200
    owner = site.lab.node(seat["node"]).exec("stat", "-c", "%u:%g:%a", HOME)
    inside = run_over_ssh(site, seat["access"], "id; cat ~/thesis.txt")
    return {"url": url, "access": seat["access"], "owner": owner, "inside": inside}


def run_over_ssh(site: Site, access: dict[str, str], command: str) -> str:
    ssh = ssh_command(access["ssh"], access["host_key"], student_key(site.lab), site.lab.folder)
    done = subprocess.run([*ssh, command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def find_environment(site: Site, access: dict[str, str]) -> tuple[str, str]:
    """Return whether SSH sessions find the student's package, and for which version of torch they install others."""
    found, place = run_over_ssh(site, access, f"python -c '{INSPECT}'").split()
    folder, _, name = place.rpartition("/")
    assert folder == "/home/student/.provisioner/python"
    return found, name.partition("-")[0]


def containers(site: Site, node: str) -> str:
    return site.lab.node(node).exec("docker", "ps", "-q", "--no-trunc", "--filter", "label=provisioner.seat")


def states(result: CommandResult) -> dict[str, str]:
    return {record["node"]: record["state"] for record in result.document["nodes"]}


def change_settings(site: Site, **over: object) -> None:
    path = site.folder / "lab.yml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | over, sort_keys=False))


@pytest.fixture(scope="module")
def seats_before(site: Site) -> Seats:
    seats = list_seats(site)
    for seat in seats.values():
        run_over_ssh(site, seat["access"], f"{INSTALL} ~/labmate-*.whl")
    return seats


def test_upgrade_check_changes_nothing(site: Site) -> None:
    lock, running = (site.folder / "lab.lock").read_bytes(), containers(site, "node1")
    # An engine that does not exist: nothing is built.
    result = site.run_json("upgrade", "--torch", "2.10.0", "--check", env={"DOCKER_HOST": "unix:///no/such/engine"})
    assert (result.code, result.document["schema"]) == (0, "provisioner/upgrade/1"), result.output
    assert "Not built yet" in result.output
    change = result.document["change"]
    assert (change["torch_before"], change["torch_after"], change["left_behind"]) == ("2.8.0", "2.10.0", {})
    assert [move["node"] for move in change["moves"]] == ["node1", "node2"]
    assert [step["action"] for step in result.document["plan"]["steps"]] == ["update", "update"]
    assert ((site.folder / "lab.lock").read_bytes(), containers(site, "node1")) == (lock, running)


def test_upgrade_in_a_freeze_changes_nothing_and_gives_the_reason(site: Site) -> None:
    lock, running = (site.folder / "lab.lock").read_bytes(), containers(site, "node1")
    change_settings(site, rollout=QUICK | FREEZE)
    try:
        result = site.run_json("upgrade", "--torch", "2.10.0", "--yes")
    finally:
        change_settings(site, rollout=QUICK)
    (problem,) = result.document["problems"]
    assert (result.code, problem["code"]) == (4, "frozen"), result.output
    assert "exams" in problem["what"]
    assert ((site.folder / "lab.lock").read_bytes(), containers(site, "node1")) == (lock, running)


@pytest.fixture(scope="module")
def upgraded(site: Site, seats_before: Seats) -> CommandResult:
    """The result of an upgrade to torch 2.10 while a training runs on node2."""
    assert seats_before.keys() == {"node1", "node2"}
    site.lab.node("node2").set_profile(BUSY)
    running = containers(site, "node2")
    ssh = site.lab.folder / "recording" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(RECORDING_SSH % (connection_log(site), shutil.which("ssh")))
    ssh.chmod(0o755)
    environment = {"PATH": f"{ssh.parent}:{os.environ['PATH']}"}
    result = site.run_json("upgrade", "--torch", "2.10.0", "--notice", NOTICE, "--yes", env=environment)
    assert containers(site, "node2") == running
    return result


def connection_log(site: Site) -> Path:
    """Return the file with one folder of shared connections for each call of ssh in an upgrade."""
    return site.lab.folder / "connections.txt"


def test_an_upgrade_reuses_its_ssh_connections(site: Site, upgraded: CommandResult) -> None:
    assert upgraded.code == 4
    folders = connection_log(site).read_text().splitlines()
    assert len(folders) > len(site.lab.nodes)
    assert len(set(folders)) == 1


def test_upgrade_defers_a_busy_seat(site: Site, seats_before: Seats, upgraded: CommandResult) -> None:
    assert (upgraded.code, states(upgraded)) == (4, {"node1": "committed", "node2": "deferred"}), upgraded.output
    assert find_environment(site, seats_before["node2"]["access"]) == ("True", "2.8.0")


def test_remove_defers_a_busy_seat(site: Site, upgraded: CommandResult) -> None:
    assert upgraded.code == 4
    running = containers(site, "node2")
    result = site.run_json("remove", "--limit", "node2", "--yes")
    assert (result.code, states(result)) == (4, {"node2": "deferred"}), result.output
    assert [problem["code"] for problem in result.document["nodes"][0]["problems"]] == ["busy"]
    assert containers(site, "node2") == running


def test_upgrade_writes_the_new_lock_and_keeps_the_previous_one(site: Site, upgraded: CommandResult) -> None:
    lock = json.loads((site.folder / "lab.lock").read_text())
    assert (lock["torch"], set(lock["nodes"])) == ("2.10.0", {"node1", "node2"})
    assert json.loads(previous_lock(site, upgraded).read_text())["torch"] == "2.8.0"
    assert 'torch: "2.10.0"' in upgraded.output, "the setting of lab.yml for the new torch"


def previous_lock(site: Site, result: CommandResult) -> Path:
    (kept,) = site.lab.folder.glob(f"xdg_state_home/provisioner/*/runs/{result.document['run']}/lock-before.json")
    return kept


def test_packages_for_the_old_torch_are_hidden_after_an_upgrade_and_kept_for_rollback(
    site: Site, seats_before: Seats, upgraded: CommandResult
) -> None:
    assert upgraded.code == 4
    access = seats_before["node1"]["access"]
    assert find_environment(site, access) == ("False", "2.10.0")
    assert "labmate" in run_over_ssh(site, access, "ls ~/.provisioner/python/2.8.0-*/lib/python3*/site-packages")


def test_a_notice_is_shown_in_every_new_shell_and_survives_the_switch(
    site: Site, seats_before: Seats, upgraded: CommandResult
) -> None:
    assert upgraded.code == 4
    access, file = seats_before["node1"]["access"], "/etc/provisioner/notice/notice.txt"
    assert f"*** {NOTICE}" in run_over_ssh(site, access, "bash -lic true")
    cleared = site.run_json("notify", "--clear", "--limit", "node1")
    assert (cleared.code, states(cleared)) == (0, {"node1": "committed"}), cleared.output
    assert run_over_ssh(site, access, f"cat {file}") == ""


def test_force_switches_a_busy_seat_and_the_plan_shows_the_reason(
    site: Site, seats_before: Seats, upgraded: CommandResult
) -> None:
    assert upgraded.code == 4
    forced = ("--when-busy", "force", "--reason", "exam at noon")
    plan = site.run_json("plan", *forced).document
    step = next(step for step in plan["steps"] if step["node"] == "node2")
    assert (step["action"], [problem["code"] for problem in step["problems"]]) == ("update", ["stops_work"])
    assert plan["when_busy"] == {"policy": "force", "seconds": 0, "reason": "exam at noon"}
    result = site.run_json("rollout", *forced, "--yes")
    assert (result.code, states(result)) == (0, {"node1": "unchanged", "node2": "committed"}), result.output
    assert find_environment(site, seats_before["node2"]["access"]) == ("False", "2.10.0")


def test_upgrade_keeps_access_account_and_home(site: Site, seats_before: Seats, upgraded: CommandResult) -> None:
    assert upgraded.code == 4
    assert list_seats(site) == seats_before


def test_upgrade_to_the_running_torch_changes_nothing(site: Site, upgraded: CommandResult) -> None:
    assert upgraded.code == 4
    site.lab.node("node2").set_profile(profile_text(PROFILE))
    done = site.command.run("upgrade", str(site.folder), "--torch", "2.10.0", "--yes")
    assert done.returncode == 0, done.stderr
    assert "The lock stays as it is" in done.stdout
    assert "No changes. Every seat runs what the lock says." in done.stdout


def test_rollout_of_the_previous_lock_restores_the_packages_of_its_torch(
    site: Site, seats_before: Seats, upgraded: CommandResult
) -> None:
    (site.folder / "lab.lock").write_text(previous_lock(site, upgraded).read_text())
    result = site.run_json("rollout", "--limit", "node1", "--yes")
    assert (result.code, states(result)) == (0, {"node1": "committed"}), result.output
    assert find_environment(site, seats_before["node1"]["access"]) == ("True", "2.8.0")


def test_the_image_of_before_is_kept_under_a_name_until_it_is_removed(
    site: Site, seats_before: Seats, upgraded: CommandResult
) -> None:
    assert upgraded.code == 4
    result = site.run_json("upgrade", "--torch", "2.10.0", "--keep-as", "2026s", "--yes")
    assert (result.code, states(result)) == (0, {"node1": "committed", "node2": "unchanged"}), result.output
    seat = yaml.safe_load((site.folder / "lab.yml").read_text())["seat"]
    change_settings(site, seat=seat | {"environment": "2026s"})
    result = site.run_json("rollout", "--limit", "node1", "--yes")
    assert (result.code, states(result)) == (0, {"node1": "committed"}), result.output
    assert find_environment(site, seats_before["node1"]["access"]) == ("True", "2.8.0")
    assert "environment_in_use" in remove_kept(site, code=2)
    assert site.run_json("lock", "--torch", "2.10.0").document["environments"]["2026s"]["torch"] == "2.8.0"
    change_settings(site, seat=seat)
    assert "keep its image until the next rollout" in remove_kept(site, code=0)
    assert "environments" not in json.loads((site.folder / "lab.lock").read_text())


def remove_kept(site: Site, code: int) -> str:
    done = site.command.run("environments", "remove", str(site.folder), "2026s", "--yes")
    assert done.returncode == code, done.stderr
    return done.stderr
