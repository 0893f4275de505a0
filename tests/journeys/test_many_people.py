"""Sixty people on three nodes: a rollout, its costs, an upgrade beside three at work and a hostile home, a rollback.

Before them each node has one seat, whose costs are compared. Each test starts from the state that the one before left.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.journeys.conftest import COMPLETE, QUICK, CommandResult, Site, running_site
from tests.journeys.test_roster import (
    container_of,
    counts,
    first_process,
    is_open,
    key_of,
    login,
    profile_with_processes,
    seats,
    write_roster,
)
from tests.lab.bed import make_key
from tests.lab.demo import Command
from tests.lab.engine import Engine
from tests.lab.gpus import profile_text
from tests.lab.node import Node

pytestmark = [pytest.mark.lab, pytest.mark.long("roster")]

PROFILES = ("rtx5090x2-580", "rtx4090-570", "v100-535")
OLD, NEW = "2.8.0", "2.10.0"
PEOPLE = 60
ON_NODE = {"node1": range(24), "node2": range(24, 42), "node3": range(42, PEOPLE)}
OWN = {0, 42}  # of node1 and of node3
SHARED = {*range(1, 13), *range(24, 34)}  # the other card of node1, the card of node2
# By the remainder of their number: with an account, with a number, with an address, with another name.
IDS = ("acc{0}", "20240{0:05d}", "s{0}@example.edu", "p{0}")
NAMES = ("安娜", "王小明", "李雷", "")
FIRST_ACCOUNT, FIRST_UID = 5000, 70000
UNCHANGED = {node: {"unchanged": len(numbers)} for node, numbers in ON_NODE.items()}
LEAVES = "p59"


def id_of(number: int) -> str:
    return IDS[number % 4].format(number)


def row_of(node: str, number: int) -> tuple[str, ...]:
    gpus = "1" if number in OWN else "shared" if number in SHARED else "0"
    uid = "" if has_account(number) else str(FIRST_UID + number)
    return (id_of(number), NAMES[number % 4], uid, node, gpus)


def has_account(number: int) -> bool:
    return number % 4 == 0


ROWS = {id_of(number): row_of(node, number) for node, numbers in ON_NODE.items() for number in numbers}

# Runs the command; writes what the command and its children used.
METER = """#!{python}
import json, resource, subprocess, sys, time
begun = time.monotonic()
code = subprocess.call([{program!r}, *sys.argv[1:]])
used, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - begun
with open({log!r}, "w") as file:
    found = {{"seconds": seconds, "processor": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss / 1024}}
    json.dump(found, file)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def site(testbed: Engine, program: Path) -> Iterator[Site]:
    image, rollout = COMPLETE | {"torch": OLD}, QUICK | {"waves": ["100%"]}
    with running_site(testbed, program, PROFILES, bases=[OLD, NEW], image=image, rollout=rollout) as site:
        (site.folder / "keys").mkdir()
        for person in ROWS:
            make_key(key_of(site, person))
        for node in site.lab.nodes:
            add_accounts(node)
        yield with_meter(site, program)


def add_accounts(node: Node) -> None:
    accounts = [number for number in range(PEOPLE) if has_account(number)]
    lines = [f"useradd --uid {FIRST_ACCOUNT + number} --no-create-home {id_of(number)}" for number in accounts]
    node.exec("sh", "-ec", "\n".join(lines))


def with_meter(site: Site, program: Path) -> Site:
    meter, log = site.lab.folder / "meter", meter_log(site)
    meter.write_text(METER.format(python=sys.executable, program=str(program), log=str(log)))
    meter.chmod(0o755)
    return site._replace(command=Command(site.lab.engine, site.lab, meter))


def meter_log(site: Site) -> Path:
    return site.lab.folder / "used.json"


def processor_seconds(node: Node) -> float:
    """Return the processor time of everything on the node so far."""
    text = node.exec("sh", "-c", "cat /sys/fs/cgroup/cpu.stat 2>/dev/null || cat /sys/fs/cgroup/cpuacct/cpuacct.usage")
    version2 = re.match(r"usage_usec (\d+)", text)
    return int(version2.group(1)) / 1e6 if version2 else int(text) / 1e9


class Costs(NamedTuple):
    """What a command costs: seconds, processor seconds of the control machine and of the nodes, its peak in MiB."""

    seats: int
    seconds: float
    control: float
    nodes: tuple[float, ...]
    peak: float

    def __str__(self) -> str:
        nodes = " + ".join(f"{seconds:.0f}" for seconds in self.nodes)
        used = f"{self.control:.0f} processor s and {self.peak:.0f} MiB here, {nodes} processor s on the nodes"
        each = f"{self.seconds / self.seats:.1f} s and {self.processor_each:.1f} processor s a seat"
        return f"{self.seconds:.0f} s, {used}; {each}"

    @property
    def processor_each(self) -> float:
        return (self.control + sum(self.nodes)) / self.seats


@contextmanager
def measured(site: Site, what: str, number: int) -> Iterator[list[Costs]]:
    """Measure and print what the command that runs meanwhile costs; `number` seats are those that it changes."""
    before, found = [processor_seconds(node) for node in site.lab.nodes], list[Costs]()
    yield found
    nodes = [processor_seconds(node) - first for node, first in zip(site.lab.nodes, before, strict=True)]
    used = json.loads(meter_log(site).read_text())
    found.append(Costs(number, used["seconds"], used["processor"], tuple(nodes), used["peak"]))
    print(f"{what}: {found[0]}")


class OneSeatCosts(NamedTuple):
    """The same changes of a lab without a roster, which has one seat on each node."""

    rollout: Costs
    upgrade: Costs


@pytest.fixture(scope="module")
def one_seat_costs(site: Site) -> OneSeatCosts:
    """Measure the lab without its roster, remove its seats and their images, and give the lab its roster."""
    with measured(site, "rollout of one seat a node", len(PROFILES)) as rollout:
        assert site.roll_out().code == 0
    with measured(site, "upgrade of one seat a node", len(PROFILES)) as upgrade:
        assert site.run_json("upgrade", "--torch", NEW, "--yes").code == 0
    assert site.run_json("remove", "--yes").code == 0
    for node in site.lab.nodes:
        node.exec("docker", "image", "prune", "-af")
    (site.folder / "lab.lock").unlink()
    add_people(site)
    return OneSeatCosts(rollout[0], upgrade[0])


def add_people(site: Site) -> None:
    path = site.folder / "lab.yml"
    settings = yaml.safe_load(path.read_text())
    settings["image"] = COMPLETE | {"torch": OLD}
    settings["people"] = {"roster": "roster.csv"}
    settings["groups"] = {"student": {"memory": "1g", "cpus": 1, "shm": "64m"}}
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    write_roster(site, ROWS)


@pytest.fixture(scope="module")
def first_rollout(site: Site, one_seat_costs: OneSeatCosts) -> CommandResult:
    with measured(site, f"rollout of {PEOPLE} seats", PEOPLE) as costs:
        result = site.roll_out()
    check_costs(costs[0], one_seat_costs.rollout)
    return result


def check_costs(many: Costs, one: Costs) -> None:
    """A seat of many costs at most what the only seat of a node costs."""
    assert many.seconds / many.seats <= one.seconds / one.seats
    assert many.processor_each <= one.processor_each


def containers(site: Site) -> dict[str, set[str]]:
    """Seat -> its running containers."""
    found: dict[str, set[str]] = {}
    for node in site.lab.nodes:
        shown = '{{.ID}} {{.Label "provisioner.seat"}}'
        listed = node.exec("docker", "ps", "--filter", "label=provisioner.seat", "--format", shown)
        for line in listed.splitlines():
            container, seat = line.split()
            found.setdefault(seat, set()).add(container)
    return found


def problems_by_seat(result: CommandResult) -> dict[str, list[str]]:
    """Seat -> codes of its problems, for each seat that has any."""
    records = [seat for node in result.document["nodes"] for seat in node["seats"]]
    return {seat["seat"]: [found["code"] for found in seat["problems"]] for seat in records if seat["problems"]}


def test_one_rollout_gives_sixty_people_a_seat(site: Site, first_rollout: CommandResult) -> None:
    assert first_rollout.code == 0, first_rollout.output
    assert counts(first_rollout) == {node: {"committed": len(numbers)} for node, numbers in ON_NODE.items()}
    found = seats(site)
    assert {person: seat["node"] for person, seat in found.items()} == {person: row[3] for person, row in ROWS.items()}
    own = {uuid for number in OWN for uuid in found[id_of(number)]["gpus"]}
    assert len(own) == len(OWN)
    for person, row in ROWS.items():
        gpus = found[person]["gpus"]
        assert len(gpus) == (0 if row[4] == "0" else 1), person
        assert row[4] != "shared" or not own & set(gpus), person


def test_a_second_rollout_changes_nothing(site: Site, first_rollout: CommandResult) -> None:
    assert first_rollout.code == 0
    before = containers(site)
    with measured(site, "rollout that changes nothing", PEOPLE):
        again = site.roll_out()
    assert (again.code, counts(again)) == (0, UNCHANGED), again.output
    assert (containers(site), len(before)) == (before, PEOPLE)


def test_each_seat_has_a_network_of_its_own(site: Site, first_rollout: CommandResult) -> None:
    assert first_rollout.code == 0
    networks = ("docker", "network", "ls", "-q", "--filter", "label=com.docker.compose.network=seat")
    subnets = "{{range .IPAM.Config}}{{.Subnet}} {{end}}"
    for node in site.lab.nodes:
        found = node.exec("docker", "network", "inspect", "-f", subnets, *node.exec(*networks).split()).split()
        assert (len(found), len(set(found))) == (len(ON_NODE[node.name]),) * 2


def test_containers_have_no_rights_and_exactly_their_cards_and_memory(site: Site, first_rollout: CommandResult) -> None:
    assert first_rollout.code == 0
    cards = {seat["seat"]: set(seat["gpus"]) for seat in seats(site).values()}
    for seat, config in host_configs(site):
        rights = (config["CapAdd"], config["CapDrop"], config["Privileged"], config["Devices"] or [])
        assert rights == (None, ["ALL"], False, []), seat
        assert config["SecurityOpt"] == ["no-new-privileges:true"], seat
        assert (config["Memory"], config["MemorySwap"], config["NanoCpus"]) == (1 << 30, 1 << 30, 10**9), seat
        assert set(re.findall(r"GPU-[0-9a-f-]+", json.dumps(config["DeviceRequests"]))) == cards[seat], seat


def host_configs(site: Site) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the seat and the HostConfig of each container."""
    for node in site.lab.nodes:
        ids = node.exec("docker", "ps", "-q", "--filter", "label=provisioner.seat").split()
        assert len(ids) == 2 * len(ON_NODE[node.name])
        for found in json.loads(node.exec("docker", "inspect", *ids)):
            yield found["Config"]["Labels"]["provisioner.seat"], found["HostConfig"]


IDLE_SECONDS = 60
INOTIFY = "find /proc/[0-9]*/fd -lname anon_inode:inotify 2>/dev/null | wc -l"
MEMORY = "cat /sys/fs/cgroup/memory.stat /sys/fs/cgroup/memory/memory.stat 2>/dev/null | grep -E '^(anon|total_rss) '"


def test_idle_seats_use_little(site: Site, first_rollout: CommandResult) -> None:
    assert first_rollout.code == 0
    before = [processor_seconds(node) for node in site.lab.nodes]
    time.sleep(IDLE_SECONDS)  # the time over which their use is measured
    for node, first in zip(site.lab.nodes, before, strict=True):
        cores = (processor_seconds(node) - first) / IDLE_SECONDS
        memory = int(node.exec("sh", "-c", MEMORY).split()[1]) >> 20
        watches = int(node.exec("sh", "-c", INOTIFY))
        networks = len(node.exec("docker", "network", "ls", "-q", "--filter", "driver=bridge").split())
        people = len(ON_NODE[node.name])
        used = f"{cores:.3f} cores over {IDLE_SECONDS} s, {memory} MiB, {watches} inotify instances"
        print(f"{people} idle seats on {node.name}: {used}, {networks} networks")
        assert cores < 0.02 * people
        assert memory < 200 * people


BOOT_SECONDS = 300


def test_all_seats_of_a_node_serve_again_after_a_power_cut(site: Site, first_rollout: CommandResult) -> None:
    """No rollout and no recovery is needed: no seat was being changed."""
    assert first_rollout.code == 0
    node, before, known = site.lab.node("node1"), containers(site), identities(site)
    began = time.monotonic()
    node.kill()
    node.start()
    wait_until_healthy(node, began + BOOT_SECONDS)
    print(f"{len(ON_NODE[node.name])} seats served {time.monotonic() - began:.0f} s after the power cut")
    assert (containers(site), identities(site)) == (before, known)
    found = seats(site)
    assert all(is_open(found[id_of(number)]) for number in ON_NODE[node.name])
    again = site.roll_out()
    assert (again.code, counts(again), containers(site)) == (0, UNCHANGED, before), again.output


def wait_until_healthy(node: Node, deadline: float) -> None:
    """Wait until all containers of the node's seats are healthy."""
    wanted = 2 * len(ON_NODE[node.name])
    healthy = ("docker", "ps", "-q", "--filter", "label=provisioner.seat", "--filter", "health=healthy")
    while (found := len(node.exec(*healthy).split())) < wanted:
        assert time.monotonic() < deadline, f"{found} of {wanted} containers are healthy"
        time.sleep(1)


def test_a_removed_row_touches_nobody_else(site: Site, first_rollout: CommandResult) -> None:
    assert first_rollout.code == 0
    before, gone = containers(site), seats(site)[LEAVES]["seat"]
    write_roster(site, {person: row for person, row in ROWS.items() if person != LEAVES})
    done = site.roll_out()
    assert (done.code, counts(done)) == (0, UNCHANGED | {"node3": {"unchanged": 17, "committed": 1}}), done.output
    assert containers(site) == {seat: ids for seat, ids in before.items() if seat != gone}


# A source of accounts that never answers, as a directory service whose server is down.
HANGS = """
#include <nss.h>
#include <pwd.h>
#include <unistd.h>
enum nss_status _nss_hangs_getpwnam_r(const char *n, struct passwd *p, char *b, size_t s, int *e) {
    for (;;) pause();
}
enum nss_status _nss_hangs_getpwuid_r(uid_t u, struct passwd *p, char *b, size_t s, int *e) {
    for (;;) pause();
}
"""


@contextmanager
def hanging_directory(site: Site, node: Node) -> Iterator[None]:
    """Let the accounts of people come from a directory service that hangs, until the end of the context."""
    library = site.lab.folder / "libnss_hangs.so.2"
    command = ("gcc", "-shared", "-fPIC", "-x", "c", "-o", str(library), "-")
    subprocess.run(command, input=HANGS, text=True, check=True)
    site.lab.engine.docker("cp", str(library), f"{node.container}:/usr/lib/x86_64-linux-gnu/{library.name}")
    saved = "cp /etc/passwd /root/passwd && cp /etc/nsswitch.conf /root/nsswitch.conf"
    changed = "sed -i '/^acc/d' /etc/passwd && sed -i 's/^passwd:.*/passwd: files hangs/' /etc/nsswitch.conf"
    node.exec("sh", "-c", f"{saved} && {changed}")
    try:
        yield
    finally:
        node.exec("sh", "-c", "cp /root/passwd /etc/passwd && cp /root/nsswitch.conf /etc/nsswitch.conf")


def test_nobody_is_retired_while_the_directory_of_accounts_hangs(site: Site, first_rollout: CommandResult) -> None:
    assert first_rollout.code == 0
    before = containers(site)
    with hanging_directory(site, site.lab.node("node2")):
        done = site.roll_out()
    assert done.code == 1, done.output
    assert counts(done) == {
        "node1": {"unchanged": 24},
        "node2": {"skipped": 18},
        "node3": {"unchanged": 17},
    }
    assert containers(site) == before
    assert set(json.loads((site.folder / "lab.lock").read_text())["people"]) == ROWS.keys() - {LEAVES}
    again = site.roll_out()
    assert (again.code, containers(site)) == (0, before), again.output


# At work: on a card of their own, on a shared card, and in an SSH session of a seat without cards.
AT_WORK = (id_of(0), id_of(1), id_of(50))
HOSTILE = id_of(27)
# Every Python that reads the folder of the user's packages ends at once.
BREAK_PYTHON = """
import os, site, sys
old = site.getuserbase()
folder = site.getusersitepackages().replace(old, os.path.join(os.path.dirname(old), sys.argv[1]))
os.makedirs(folder)
open(os.path.join(folder, "usercustomize.py"), "w").write("import os; os._exit(7)")
"""
STAY = {person for person in ROWS if person != LEAVES}
CHANGED = len(STAY) - len(AT_WORK)


@contextmanager
def three_at_work(site: Site) -> Iterator[None]:
    """Let AT_WORK work, and check at the end that nothing of it has ended."""
    found, node = seats(site), site.lab.node("node1")
    own, shared, session = (found[person] for person in AT_WORK)
    before = containers(site)
    pids = {seat["gpus"][0]: first_process(node, container_of(node, seat["seat"])) for seat in (own, shared)}
    with ExitStack() as stack:
        stack.callback(node.set_profile, profile_text(PROFILES[0]))
        node.set_profile(profile_with_processes(node, pids))
        working = stack.enter_context(ssh_session(site, session))
        yield
        assert working.poll() is None
    after = containers(site)
    for seat in (own, shared, session):
        assert after[seat["seat"]] == before[seat["seat"]]


@contextmanager
def ssh_session(site: Site, seat: Mapping[str, Any]) -> Iterator["subprocess.Popen[str]"]:
    """Keep a program running in an SSH session of the seat."""
    ssh = login(site, seat, key_of(site, str(seat["person"])))
    with subprocess.Popen([*ssh, "echo begun; sleep 7200"], stdout=subprocess.PIPE, text=True) as session:
        try:
            assert session.stdout is not None
            assert session.stdout.readline() == "begun\n"
            yield session
        finally:
            session.terminate()


def identities(site: Site) -> dict[str, Any]:
    """Return by person the URL with its port and token, SSH access and host key; by node the owners of the homes."""
    people = {person: (seat["url"], seat["access"]) for person, seat in seats(site).items()}
    homes = {
        node.name: node.exec("sh", "-c", "stat -c '%n %i %u:%g:%a' /srv/provisioner/homes/*") for node in site.lab.nodes
    }
    return people | homes


def images(site: Site) -> dict[str, str]:
    return {person: seat["image"] for person, seat in seats(site).items()}


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    return {person for person, image in before.items() if after[person] != image}


def make_home_hostile(site: Site) -> None:
    """Write into the folder of packages that the new image reads; its name has the digest, which is no secret."""
    digest = site.lab.mirror.digest(f"pytorch/pytorch:{NEW}-cuda12.8-cudnn9-runtime").partition(":")[2]
    node = site.lab.node(ROWS[HOSTILE][3])
    container = container_of(node, seats(site)[HOSTILE]["seat"])
    node.exec("docker", "exec", container, "python3", "-c", BREAK_PYTHON, f"{NEW}-{digest[:12]}")


def test_an_upgrade_beside_three_at_work_and_a_hostile_home(
    site: Site, first_rollout: CommandResult, one_seat_costs: OneSeatCosts
) -> None:
    assert first_rollout.code == 0
    before, old = identities(site), images(site)
    names = {person: seat["seat"] for person, seat in seats(site).items()}
    make_home_hostile(site)
    with three_at_work(site), measured(site, f"upgrade of {CHANGED} seats", CHANGED) as costs:
        done = site.run_json("upgrade", "--torch", NEW, "--yes")
    assert done.code == 1, done.output
    check_costs(costs[0], one_seat_costs.upgrade)
    assert counts(done) == {
        "node1": {"committed": 22, "deferred": 2},
        "node2": {"committed": 18},
        "node3": {"committed": 16, "deferred": 1},
    }
    expected = {person: ["busy"] for person in AT_WORK} | {HOSTILE: ["home_fault"]}
    assert problems_by_seat(done) == {names[person]: codes for person, codes in expected.items()}
    assert changed(old, images(site)) == STAY - set(AT_WORK)
    assert identities(site) == before


def test_who_was_at_work_is_upgraded_once_the_work_has_ended(site: Site, first_rollout: CommandResult) -> None:
    assert first_rollout.code == 0
    done = site.roll_out()
    assert {node: found["committed"] for node, found in counts(done).items() if "committed" in found} == {
        "node1": 2,
        "node3": 1,
    }, done.output


def test_a_rollback_of_all_beside_three_at_work(site: Site, first_rollout: CommandResult) -> None:
    assert first_rollout.code == 0
    before, new = identities(site), images(site)
    with three_at_work(site), measured(site, f"rollback of {CHANGED} seats", CHANGED):
        done = site.run_json("rollback", "--yes")
    assert done.code == 4, done.output
    assert counts(done) == {
        "node1": {"committed": 22, "deferred": 2},
        "node2": {"committed": 18},
        "node3": {"committed": 16, "deferred": 1},
    }
    assert changed(new, images(site)) == STAY - set(AT_WORK)
    assert identities(site) == before
