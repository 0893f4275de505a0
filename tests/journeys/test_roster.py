"""Six people on two nodes by one rollout: own, shared and no cards; accounts and numbers; a row that goes; kills.

Each test starts from the state that the one before left.
"""

import csv
import io
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.journeys.conftest import COMPLETE, QUICK, CommandResult, Site, running_site
from tests.lab.bed import make_key
from tests.lab.demo import http_status, ssh_command
from tests.lab.engine import Engine
from tests.lab.gpus import profile_text
from tests.lab.node import Node

pytestmark = pytest.mark.lab

# id, name, uid, node, gpus; ann has an account.
ROWS: tuple[tuple[str, ...], ...] = (
    ("ann", "安", "", "node1", "1"),
    ("2024012345", "王小明", "70001", "node1", "shared"),
    ("bob", "", "70002", "node1", "shared"),
    ("li.lei@example.edu", "李雷", "70003", "node2", "0"),
    ("eve", "", "70004", "node*", "shared"),
    ("zoe", "", "70005", "node2", "0"),
)
PEOPLE = {row[0] for row in ROWS}
ANN = 5001
PROFILES = ("rtx5090x2-580", "rtx4090-570")


def key_of(site: Site, person: str) -> Path:
    return site.folder / "keys" / person


def write_roster(site: Site, rows: Mapping[str, tuple[str, ...]]) -> None:
    """Write the roster as a Chinese spreadsheet does."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(("id", "姓名", "uid", "node", "gpus", "key"))
    for person, row in rows.items():
        table.writerow((*row, f"keys/{person}.pub"))
    (site.folder / "roster.csv").write_bytes(text.getvalue().encode("gbk"))


ALL = {row[0]: row for row in ROWS}


@pytest.fixture(scope="module")
def site(testbed: Engine, program: Path) -> Iterator[Site]:
    people, rollout = {"roster": "roster.csv"}, QUICK | {"waves": ["100%"]}
    groups = {"student": {"memory": "1g", "cpus": 1, "shm": "64m"}}
    with running_site(
        testbed, program, PROFILES, bases=["2.10.0"], image=COMPLETE, people=people, groups=groups, rollout=rollout
    ) as site:
        (site.folder / "keys").mkdir()
        for person in PEOPLE:
            make_key(key_of(site, person))
        site.lab.node("node1").exec("useradd", "--uid", str(ANN), "--no-create-home", "ann")
        write_roster(site, ALL)
        yield site


@pytest.fixture(scope="module")
def first_rollout(site: Site) -> CommandResult:
    return site.roll_out()


@pytest.fixture(scope="module")
def first_seats(site: Site, first_rollout: CommandResult) -> dict[str, dict[str, Any]]:
    """The seats after the first rollout; later ones change neither ports nor tokens."""
    assert first_rollout.code == 0, first_rollout.output
    return seats(site)


def seats(site: Site) -> dict[str, dict[str, Any]]:
    """Person -> seat as `status --urls` shows it, with its `url`."""
    _, document, _ = site.run_json("status", "--urls")
    return {seat["person"]: seat | {"url": document["urls"].get(seat["person"])} for seat in document["seats"]}


def counts(result: CommandResult) -> dict[str, dict[str, int]]:
    return {record["node"]: record["counts"] for record in result.document["nodes"]}


def containers(site: Site) -> dict[str, set[str]]:
    """Node -> the IDs of its running containers."""
    return {
        node.name: set(node.exec("docker", "ps", "-q", "--filter", "label=provisioner.seat").split())
        for node in site.lab.nodes
    }


def test_one_rollout_gives_each_person_a_seat(
    first_rollout: CommandResult, first_seats: Mapping[str, Mapping[str, Any]]
) -> None:
    assert counts(first_rollout) == {"node1": {"committed": 3}, "node2": {"committed": 3}}
    found = first_seats
    assert set(found) == PEOPLE
    assert {person: len(seat["gpus"]) for person, seat in found.items()} == {
        "ann": 1,
        "2024012345": 1,
        "bob": 1,
        "li.lei@example.edu": 0,
        "eve": 1,
        "zoe": 0,
    }
    assert found["bob"]["gpus"] == found["2024012345"]["gpus"]
    assert found["bob"]["gpus"] != found["ann"]["gpus"]


def login(site: Site, seat: Mapping[str, Any], key: Path) -> list[str]:
    return ssh_command(seat["access"]["ssh"], seat["access"]["host_key"], key, site.lab.folder)


@pytest.mark.parametrize(
    ("person", "user", "uid"),
    [("ann", "ann", ANN), ("2024012345", "2024012345", 70001), ("li.lei@example.edu", "li-lei-example-edu", 70003)],
)
def test_a_person_logs_in_with_their_key_and_number(
    site: Site, first_seats: Mapping[str, Mapping[str, Any]], person: str, user: str, uid: int
) -> None:
    seat = first_seats[person]
    ssh = login(site, seat, key_of(site, person))
    done = subprocess.run([*ssh, "id -un; id -u; nvidia-smi -L | wc -l"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [user, str(uid), str(len(seat["gpus"]))]
    assert is_open(seat)
    shown = subprocess.run([*ssh, "provision-url"], capture_output=True, text=True, check=True).stdout.strip()
    assert shown == seat["url"]


def log_in(site: Site, seat: Mapping[str, Any], key: Path) -> int:
    """Log in and out again; return the exit code."""
    return subprocess.run([*login(site, seat, key), "true"], capture_output=True, check=False).returncode


def is_open(seat: Mapping[str, Any]) -> bool:
    """Whether Jupyter accepts the token of the seat."""
    page, token = seat["url"].split("/lab?token=")
    return http_status(f"{page}/api/status", token) == 200


def test_another_student_reaches_neither_seat_nor_files(
    site: Site, first_seats: Mapping[str, Mapping[str, Any]]
) -> None:
    found = first_seats
    assert log_in(site, found["ann"], key_of(site, "bob")) == 255
    assert http_status(found["ann"]["url"].partition("/lab")[0] + "/api/contents") == 403
    homes = site.lab.node("node1").exec("stat", "-c", "%a %u", "/srv/provisioner/homes/ann").split()
    assert homes == ["700", str(ANN)]


def test_everybody_gets_a_letter_and_is_listed(site: Site, first_rollout: CommandResult, tmp_path: Path) -> None:
    assert first_rollout.code == 0
    code, document, output = site.run_json("letters", "--to", str(tmp_path / "letters"))
    assert (code, set(document["letters"])) == (0, PEOPLE), output
    done = site.command.run("seats", "list", str(site.folder), "--json")
    assert done.returncode == 0, done.stderr
    assert {seat["person"] for seat in json.loads(done.stdout)["seats"]} == PEOPLE


def test_a_removed_row_is_a_seat_that_is_stopped_and_touches_nobody_else(
    site: Site, first_rollout: CommandResult
) -> None:
    assert first_rollout.code == 0
    before = containers(site)
    write_roster(site, {person: row for person, row in ALL.items() if person != "zoe"})
    done = site.roll_out()
    expected = {"node1": {"unchanged": 3}, "node2": {"unchanged": 2, "committed": 1}}
    assert (done.code, counts(done)) == (0, expected), done.output
    after = containers(site)
    assert after["node1"] == before["node1"]
    assert (after["node2"] < before["node2"], len(after["node2"])) == (True, 4)
    assert site.lab.node("node2").exec("stat", "-c", "%u", "/srv/provisioner/homes/zoe") == "70005"
    assert "zoe" not in json.loads((site.folder / "lab.lock").read_text())["people"]


def test_a_row_that_returns_and_a_new_key_disturb_no_process_on_a_shared_card(
    site: Site, first_seats: Mapping[str, Mapping[str, Any]]
) -> None:
    """zoe gets the same seat again, and bob another key; 2024012345 computes on the card that both share."""
    node, works = site.lab.node("node1"), first_seats["2024012345"]
    container = container_of(node, works["seat"])
    write_roster(site, ALL)
    shutil.copy(key_of(site, "eve").with_suffix(".pub"), f"{key_of(site, 'bob')}.pub")
    pid = first_process(node, container)
    node.set_profile(profile_with_processes(node, {works["gpus"][0]: pid}))
    try:
        done = site.roll_out()
    finally:
        node.set_profile(profile_text(PROFILES[0]))
    changed = {"unchanged": 2, "committed": 1}
    assert (done.code, counts(done)) == (0, {"node1": changed, "node2": changed}), done.output
    assert first_process(node, container) == pid
    assert is_open(first_seats["zoe"])
    assert log_in(site, first_seats["bob"], key_of(site, "eve")) == 0


def container_of(node: Node, seat: str) -> str:
    """Return the container of the seat's Jupyter."""
    labels = ("--filter", f"label=provisioner.seat={seat}", "--filter", "label=provisioner.service=jupyter")
    return node.exec("docker", "ps", "-q", *labels)


def first_process(node: Node, container: str) -> str:
    return node.exec("docker", "inspect", "-f", "{{.State.Pid}}", container)


def profile_with_processes(node: Node, pids: Mapping[str, str]) -> str:
    """Return the profile of node1 with a process on each of these GPUs (by UUID)."""
    head, *gpus = profile_text(PROFILES[0]).split("[gpu]")
    uuids = re.findall(r"GPU-[0-9a-f-]+", node.exec("nvidia-smi", "-L"))
    assert pids.keys() <= set(uuids)
    used = [
        gpu + (f"proc = {pids[uuid]}:2048:python\n" if uuid in pids else "")
        for uuid, gpu in zip(uuids, gpus, strict=True)
    ]
    return "[gpu]".join([head, *used])


def test_the_seats_of_a_killed_batch_are_all_committed_in_the_end(site: Site, first_rollout: CommandResult) -> None:
    assert first_rollout.code == 0
    node = site.lab.node("node1")
    limit_memory(site, "1200m")
    with site.command.start("rollout", str(site.folder), "--yes", "--limit", node.name) as run:
        node.exec("kill", "-9", str(job_of_second_seat(node)["pid"]))
    assert run.returncode == 1
    done = site.run_json("resume")
    assert (done.code, counts(done)) == (0, {node.name: {"committed": 3}}), done.output
    assert (memory_limits(node), claim(node)) == ({1200 << 20}, "")


def limit_memory(site: Site, memory: str) -> None:
    path = site.folder / "lab.yml"
    settings = yaml.safe_load(path.read_text())
    settings["groups"]["student"]["memory"] = memory
    path.write_text(yaml.safe_dump(settings, sort_keys=False))


def memory_limits(node: Node) -> set[int]:
    """Return the limits of memory of all running seats, in bytes."""
    ids = node.exec("docker", "ps", "-q", "--filter", "label=provisioner.seat").split()
    return {int(limit) for limit in node.exec("docker", "inspect", "-f", "{{.HostConfig.Memory}}", *ids).split()}


def claim(node: Node) -> str:
    return node.exec("sh", "-c", "cat /var/lib/provisioner/claim.json 2>/dev/null || true")


def job_of_second_seat(node: Node) -> dict[str, Any]:
    """Return the job that switches the seats of the node, once one of three is switched."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        files = node.exec(
            "sh", "-c", "for file in /var/lib/provisioner/batch/jobs/*.switch.json; do cat $file; echo; done"
        )
        for job in map(json.loads, files.splitlines()):
            if not job["finished"] and job["text"].startswith("1 of 3 seats"):
                return dict(job)
        time.sleep(0.2)
    raise AssertionError("no second seat was switched")
