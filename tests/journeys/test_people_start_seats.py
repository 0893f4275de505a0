"""A rollout publishes self-service; twenty people start seats at once; what a rollout and an upgrade do to them.

Each test starts from the state that the one before left.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.journeys.conftest import COMPLETE, QUICK, CommandResult, Site, running_site
from tests.journeys.self_service import until
from tests.journeys.test_roster import container_of, first_process, profile_with_processes
from tests.lab.demo import ssh_command
from tests.lab.engine import Engine
from tests.lab.host import BedError
from tests.lab.node import Node

pytestmark = [pytest.mark.lab, pytest.mark.long("self-service")]

PROFILE = "rtx5090x2-580"
OLD, NEW = "2.8.0", "2.10.0"
GROUP = "lab-students"
PEOPLE = {f"s{number:02}": 5000 + number for number in range(20)}
WITH_GPU = ("s00", "s01")
AT_WORK = ("s00", "s05", "s10")  # on a GPU, and two with a program of an SSH session
STUDENT = {"memory": "1g", "cpus": 1, "shm": "64m", "gpus": 1, "hours": 24, "grace_minutes": 0}
FOLDER = "/var/lib/provisioner"

Seat = dict[str, Any]


@pytest.fixture(scope="module")
def site(testbed: Engine, program: Path) -> Iterator[Site]:
    with running_site(
        testbed,
        program,
        [PROFILE],
        bases=[OLD, NEW],
        image=COMPLETE | {"torch": OLD},
        rollout=QUICK,
        self_service={"unix_group": GROUP},
        groups={"student": STUDENT},
    ) as site:
        lines = [f"groupadd {GROUP}"]
        lines += [f"useradd --uid {uid} --create-home --groups {GROUP} {name}" for name, uid in PEOPLE.items()]
        node_of(site).exec("sh", "-ec", "\n".join(lines))
        yield site


def node_of(site: Site) -> Node:
    return site.lab.node("node1")


def provision_me(site: Site, person: str, *words: str) -> Seat:
    """Run the command of the node as a person, and return its document. Raises BedError if it fails."""
    account = ("setpriv", "--reuid", person, "--regid", person, "--init-groups", "env", f"HOME=/home/{person}")
    return dict(json.loads(node_of(site).exec(*account, "provision", "me", *words, "--json")))


def published(result: CommandResult) -> dict[str, Any]:
    (node,) = result.document["nodes"]
    return dict(node["environments"]["default"])


@pytest.fixture(scope="module")
def first_rollout(site: Site) -> CommandResult:
    with pytest.raises(BedError):
        node_of(site).exec("test", "-e", "/usr/local/bin/provision")
    return site.roll_out()


@pytest.fixture(scope="module")
def people(site: Site, first_rollout: CommandResult) -> dict[str, Seat]:
    """Each person types one command, all at the same time."""
    assert first_rollout.code == 0, first_rollout.output

    def start(person: str) -> Seat:
        return provision_me(site, person, "--gpus", "1" if person in WITH_GPU else "0")

    with ThreadPoolExecutor(len(PEOPLE)) as pool:
        return dict(zip(PEOPLE, pool.map(start, PEOPLE), strict=True))


@pytest.fixture(scope="module")
def work(site: Site, people: dict[str, Seat]) -> Iterator[dict[str, "subprocess.Popen[str]"]]:
    """Programs of two people in their seats, and of a third one on a GPU."""
    node, (uuid,) = node_of(site), people["s00"]["seat"]["gpus"]
    pid = first_process(node, container_of(node, people["s00"]["seat"]["name"]))
    node.set_profile(profile_with_processes(node, {uuid: pid}))
    words = (
        (*login(site, people["s05"], "s05"), "echo begun; exec sleep 3600"),
        (
            *login(site, people["s10"], "s10"),
            "echo begun; exec sleep 3600",
        ),
    )
    sessions = {
        person: subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for person, command in zip(AT_WORK[1:], words, strict=True)
    }
    for session in sessions.values():
        assert session.stdout
        assert session.stdout.readline() == "begun\n"
    yield sessions
    for session in sessions.values():
        session.kill()
        session.communicate()


def login(site: Site, answer: Seat, person: str) -> list[str]:
    """Return the command with which a person logs in to their seat, with the key that the client has made."""
    key, access = site.folder / "keys" / person, answer["seat"]["ssh"]
    if not key.exists():
        key.parent.mkdir(exist_ok=True)
        key.touch(mode=0o600)
        key.write_text(node_of(site).exec("cat", f"/home/{person}/.ssh/id_ed25519") + "\n")
    way = f"ssh -p {access['port']} {access['user']}@{access['host']}"
    return ssh_command(way, access["host_key"], key, site.lab.folder)


def containers(site: Site) -> dict[str, str]:
    """Container -> its seat, and when it was started."""
    shown = '{{.Id}} {{index .Config.Labels "provisioner.seat"}} {{.State.StartedAt}}'
    ids = node_of(site).exec("docker", "ps", "-q", "--filter", "label=provisioner.seat").split()
    lines = node_of(site).exec("docker", "inspect", "-f", shown, *ids).splitlines() if ids else []
    return dict(line.split(" ", 1) for line in lines)


def identity(site: Site, answer: Seat) -> tuple[Any, ...]:
    """What must never change for a person: addresses, host key, token and the folder of their files."""
    seat = answer["seat"]
    folder = f"{FOLDER}/seats/{seat['name']}"
    token, order = (node_of(site).exec("cat", f"{folder}/{path}") for path in ("identity/token", "current/order.json"))
    return seat["jupyter"], seat["ssh"], token, json.loads(order)["seat"]["home"]


def test_the_rollout_publishes_self_service_and_a_second_one_changes_nothing(
    site: Site, first_rollout: CommandResult
) -> None:
    assert first_rollout.code == 0, first_rollout.output
    assert published(first_rollout)["state"] == "published"
    again = site.roll_out()
    assert (again.code, published(again)["state"]) == (0, "unchanged"), again.output


def test_each_of_twenty_people_gets_a_seat_of_their_own_in_one_command(site: Site, people: Mapping[str, Seat]) -> None:
    assert {answer["state"] for answer in people.values()} == {"running"}
    ports = [answer["seat"]["ssh"]["port"] for answer in people.values()]
    assert len(set(ports)) == len(PEOPLE)
    gpus = [tuple(answer["seat"]["gpus"]) for person, answer in people.items() if person in WITH_GPU]
    assert len({gpu for (gpu,) in gpus}) == len(WITH_GPU)
    done = subprocess.run([*login(site, people["s03"], "s03"), "id -un"], capture_output=True, text=True, check=True)
    assert done.stdout == "s03\n"


def test_a_person_who_asks_again_has_the_same_seat(site: Site, people: Mapping[str, Seat]) -> None:
    before = containers(site)
    assert provision_me(site, "s04")["seat"] | {"left_s": 0} == people["s04"]["seat"] | {"left_s": 0}
    assert containers(site) == before


def test_a_rollout_touches_no_seat_that_people_have_started(
    site: Site, people: Mapping[str, Seat], work: "Mapping[str, subprocess.Popen[str]]"
) -> None:
    before, known = containers(site), {person: identity(site, answer) for person, answer in people.items()}
    limits = STUDENT | {"hours": 12}
    change(site, groups={"student": limits})
    done = site.roll_out()
    assert done.code == 0, done.output
    assert containers(site) == before
    assert {person: identity(site, provision_me(site, person, "status")) for person in AT_WORK} == {
        person: known[person] for person in AT_WORK
    }
    assert not [person for person, session in work.items() if session.poll() is not None]


def change(site: Site, **settings: Any) -> None:
    path = site.folder / "lab.yml"
    found = yaml.safe_load(path.read_text()) | settings
    path.write_text(yaml.safe_dump(found, sort_keys=False))


def test_an_upgrade_ends_nothing_and_offers_the_new_version(
    site: Site, people: Mapping[str, Seat], work: "Mapping[str, subprocess.Popen[str]]"
) -> None:
    before, known = containers(site), {person: identity(site, answer) for person, answer in people.items()}
    done = site.run_json("upgrade", "--torch", NEW, "--yes")
    assert done.code == 4, done.output
    assert published(done)["state"] == "published"
    assert containers(site) == before
    assert not [person for person, session in work.items() if session.poll() is not None]
    for person in PEOPLE:
        assert identity(site, provision_me(site, person, "status")) == known[person]
    notice = f"{FOLDER}/seats/{people['s07']['seat']['name']}/notice/lease.txt"
    # The broker looks at what is published once a minute.
    until(lambda: "provision me upgrade --now" in node_of(site).exec("cat", notice))


def test_a_person_takes_the_new_version_when_it_suits_them(site: Site, people: Mapping[str, Seat]) -> None:
    known, before = identity(site, people["s07"]), containers(site)
    answer = provision_me(site, "s07", "upgrade", "--now")
    assert answer["seat"]["version"] != people["s07"]["seat"]["version"]
    assert (identity(site, answer), answer["seat"]["gpus"]) == (known, people["s07"]["seat"]["gpus"])
    untouched = {name: seat for name, seat in before.items() if not seat.startswith(f"{answer['seat']['name']} ")}
    assert untouched.items() <= containers(site).items()


def seats(site: Site, verb: str, *words: str) -> dict[str, Any]:
    done = site.command.run("seats", verb, str(site.folder), *words, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_the_admin_sees_everybody_and_takes_seats_back(site: Site, people: Mapping[str, Seat]) -> None:
    listed = seats(site, "list")["seats"]
    assert {seat["person"] for seat in listed} == people.keys()
    seats(site, "release", "s11", "--reason", "the course is over", "--yes")
    seats(site, "stop", "s12", "--reason", "fills the disk", "--yes")
    stopped = {person: provision_me(site, person, "status")["state"] for person in ("s11", "s12", "s13")}
    assert stopped == {"s11": "stopped", "s12": "stopped", "s13": "running"}
    held = site.run_json("usage").document
    assert {row["person"] for row in held["rows"]} == set(WITH_GPU)
    assert site.run_json("status").code in (0, 3)


def test_a_removal_waits_for_work_and_keeps_homes(
    site: Site, people: Mapping[str, Seat], work: "Mapping[str, subprocess.Popen[str]]"
) -> None:
    before = containers(site)
    deferred = site.run_json("remove", "--yes")
    assert (deferred.code, containers(site)) == (4, before), deferred.output
    assert not [person for person, session in work.items() if session.poll() is not None]
    forced = site.run_json("remove", "--yes", "--when-busy", "force", "--reason", "end of term")
    assert (forced.code, containers(site)) == (0, {}), forced.output
    node = node_of(site)
    home = identity_of_home(node, people["s05"]["seat"]["ssh"]["user"])
    assert home
    for path in ("/usr/local/bin/provision", "/run/provisioner/broker.sock", f"{FOLDER}/self_service/config.json"):
        with pytest.raises(BedError):
            node.exec("test", "-e", path)


def identity_of_home(node: Node, user: str) -> str:
    """Return what `ls` says of the home of a seat."""
    return node.exec("ls", "-d", f"/srv/provisioner/homes/{user}")
