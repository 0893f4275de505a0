"""A node with five seats whose controller, jobs or power end in the middle of a run. The run is completed afterwards.

tests/playbooks/test_batch_crashes.py covers every moment; these are real containers. Each test starts from the state
that the one before left.
"""

import json
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.journeys.conftest import COMPLETE, QUICK, CommandResult, Site, running_site
from tests.journeys.test_interrupted import SHORT_TIMEOUT
from tests.journeys.test_roster import (
    claim,
    containers,
    counts,
    is_open,
    key_of,
    limit_memory,
    log_in,
    memory_limits,
    seats,
    write_roster,
)
from tests.lab.bed import make_key
from tests.lab.engine import Engine
from tests.lab.node import Node

pytestmark = [pytest.mark.lab, pytest.mark.long("roster")]

# id, name, uid, node, gpus
ROWS: dict[str, tuple[str, ...]] = {
    "ann": ("ann", "", "70001", "node1", "1"),
    "bob": ("bob", "", "70002", "node1", "shared"),
    "eve": ("eve", "", "70003", "node1", "shared"),
    "mei": ("mei", "", "70004", "node1", "0"),
    "zoe": ("zoe", "", "70005", "node1", "0"),
}
STATE = "/var/lib/provisioner"
WATCH_SECONDS = 240
HEALTHY_SECONDS = 120

# Waits until the node has reached a moment of a run, then kills jobs. Arguments: the moment, and "" or "jobs".
WATCH = f"""
import glob, json, os, signal, sys, time

def read(path):
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return {{}}

def last_states(run):  # seat -> the last state that the run wrote into its journal
    found = {{}}
    for path in glob.glob("{STATE}/seats/*/journal.jsonl"):
        lines = [json.loads(line) for line in open(path).read().split("\\n") if line.strip().endswith("}}")]
        found[path] = next((line["state"] for line in reversed(lines) if line["run"] == run), "")
    return list(found.values())

def reached(moment):
    run = read("{STATE}/claim.json").get("run", "")
    stage, states = read("{STATE}/batch/jobs/%s.stage.json" % run), last_states(run)
    if not run:
        return False
    if moment == "claimed":
        return True
    if moment == "staging":  # some seats are staged, others are not
        return bool(stage) and not stage["finished"] and "staged" in states
    if moment == "staged":
        return bool(stage) and stage["finished"]
    word, number = moment.split()
    return states.count("committed") == int(number) - 1 and (word in states or word == "committed")

moment, kills = sys.argv[1:]
deadline = time.monotonic() + {WATCH_SECONDS}
while not reached(moment):
    if time.monotonic() > deadline:
        sys.exit("not reached: " + moment)
    time.sleep(0.01)
if kills:
    # The batch first: it would start other seats.
    jobs = [read(path) for path in glob.glob("{STATE}/batch/jobs/*.json") + glob.glob("{STATE}/seats/*/jobs/*.json")]
    for job in jobs:
        if job and not job["finished"]:
            try:
                os.kill(job["pid"], signal.SIGKILL)
            except OSError:
                pass
"""


@pytest.fixture(scope="module")
def site(testbed: Engine, program: Path) -> Iterator[Site]:
    groups = {"student": {"memory": "1g", "cpus": 1, "shm": "64m"}}
    people = {"roster": "roster.csv"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANSIBLE_SSH_ARGS", SHORT_TIMEOUT)
        with running_site(
            testbed,
            program,
            ["rtx5090x2-580"],
            bases=["2.10.0"],
            image=COMPLETE,
            people=people,
            groups=groups,
            rollout=QUICK,
        ) as made:
            (made.folder / "keys").mkdir()
            for person in ROWS:
                make_key(key_of(made, person))
            write_roster(made, ROWS)
            yield made


class FiveSeats(NamedTuple):
    """The lab after its first rollout, and its seats at that time, by person."""

    site: Site
    node: Node
    seats: Mapping[str, Mapping[str, Any]]

    def start(self, memory: str) -> "subprocess.Popen[str]":
        """Start a rollout that changes all seats."""
        limit_memory(self.site, memory)
        return self.site.command.start("rollout", str(self.site.folder), "--yes")

    def wait_for(self, moment: str, kills: str = "") -> None:
        self.node.exec("python3", "-c", WATCH, moment, kills)

    def report(self) -> dict[str, Any]:
        """Return the report of the last run."""
        newest = max(self.site.lab.folder.glob("xdg_state_home/provisioner/*/runs/*/report.json"))
        return dict(json.loads(newest.read_text()))

    def states(self) -> set[str]:
        """Return the states of the seats in the report of the last run."""
        (node,) = self.report()["nodes"]
        return set(node["counts"])


@pytest.fixture(scope="module")
def five(site: Site) -> FiveSeats:
    done = site.roll_out()
    assert (done.code, counts(done)) == (0, {"node1": {"committed": len(ROWS)}}), done.output
    return FiveSeats(site, site.lab.node("node1"), seats(site))


def check_complete(five: FiveSeats, memory: int, done: CommandResult) -> None:
    """All seats serve with the new limit, under their old identity and with their own cards; no claim is left."""
    (ended,) = counts(done).values()
    assert (done.code, sum(ended.values())) == (0, len(ROWS)), done.output
    assert ended.keys() <= {"committed", "unchanged"}
    wait_until_healthy(five.node)
    assert (memory_limits(five.node), claim(five.node)) == ({memory << 20}, "")
    found = seats(five.site)
    for person, seat in five.seats.items():
        now = found[person]
        assert (now["url"], now["access"], now["gpus"]) == (seat["url"], seat["access"], seat["gpus"])
        assert is_open(now)
        assert log_in(five.site, now, key_of(five.site, person)) == 0
    assert gpus_of_containers(five.node) == {seat["seat"]: set(seat["gpus"]) for seat in found.values()}
    assert set(found["ann"]["gpus"]).isdisjoint(found["bob"]["gpus"])
    before = containers(five.site)
    again = five.site.run_json("resume")
    assert (again.code, containers(five.site), claim(five.node)) == (0, before, ""), again.output


def wait_until_healthy(node: Node) -> None:
    healthy = ("docker", "ps", "-q", "--filter", "label=provisioner.seat", "--filter", "health=healthy")
    deadline = time.monotonic() + HEALTHY_SECONDS
    while len(node.exec(*healthy).split()) != 2 * len(ROWS):
        assert time.monotonic() < deadline
        time.sleep(0.5)


def gpus_of_containers(node: Node) -> dict[str, set[str]]:
    """Seat -> the UUIDs of the GPUs that its running containers have."""
    ids = node.exec("docker", "ps", "-q", "--filter", "label=provisioner.seat").split()
    found: dict[str, set[str]] = {}
    for container in json.loads(node.exec("docker", "inspect", *ids)):
        requests = json.dumps(container["HostConfig"]["DeviceRequests"])
        seat = container["Config"]["Labels"]["provisioner.seat"]
        found.setdefault(seat, set()).update(re.findall(r"GPU-[0-9a-f-]+", requests))
    return found


@pytest.mark.parametrize(("moment", "memory"), [("claimed", 1100), ("staged", 1200), ("switching 3", 1300)])
def test_a_killed_controller_is_resumed(five: FiveSeats, moment: str, memory: int) -> None:
    with five.start(f"{memory}m") as run:
        five.wait_for(moment)
        run.kill()
    refused = five.site.run_json("rollout", "--yes")
    assert (refused.code, refused.document["problems"][0]["code"]) == (5, "claimed"), refused.output
    check_complete(five, memory, five.site.run_json("resume"))


@pytest.mark.parametrize(("moment", "memory"), [("staging", 1400), ("verifying 4", 1500), ("committed 6", 1600)])
def test_a_run_whose_jobs_are_killed_is_resumed(five: FiveSeats, moment: str, memory: int) -> None:
    """`committed 6`: all five seats are committed, and the claim is not released yet."""
    with five.start(f"{memory}m") as run:
        five.wait_for(moment, "jobs")
    assert (run.returncode, five.states()) == (1, {"unknown"})
    check_complete(five, memory, five.site.run_json("resume"))


@pytest.mark.parametrize(("moment", "memory"), [("staging", 1700), ("switching 2", 1800)])
def test_after_a_power_cut_another_run_completes_all(five: FiveSeats, moment: str, memory: int) -> None:
    with five.start(f"{memory}m") as run:
        five.wait_for(moment)
        five.node.kill()
    five.node.start()
    assert (run.returncode, five.states()) == (1, {"unknown"})
    refused = five.site.run_json("rollout", "--yes")
    assert (refused.code, refused.document["problems"][0]["code"]) == (5, "claimed"), refused.output
    interrupted = str(five.report()["run"])
    check_complete(five, memory, five.site.run_json("rollout", "--yes", "--break-lock", interrupted))
