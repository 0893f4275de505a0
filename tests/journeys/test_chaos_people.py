"""The laws of the seats of people under faults, on made-up findings: each of them can fail."""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.chaos_people import PEOPLE, People, command, outcome, running, shared_gpus
from tests.lab.engine import Engine
from tests.lab.node import Node

GPUS = ["GPU-0", "GPU-1"]
PUBLISHED = {"default": "0123456789ab"}

Found = dict[str, Any]


def a_node() -> Node:
    return Node(Engine(Path("/nonexistent")), "lab", "node1", "192.0.2.1", Path("/nonexistent"))


def containers(seat: str, gpus: list[str]) -> list[Found]:
    one = {"seat": seat, "running": True, "health": "healthy", "gpus": gpus, "capabilities": [], "privileged": False}
    return [one, copy.deepcopy(one)]


def lease(person: str, gpus: list[str]) -> Found:
    return {"seat": f"lab_{person}", "uid": PEOPLE[person], "gpus": gpus, "left_s": 3000.0}


def findings() -> Found:
    """Two people run a seat with a GPU each; the seats of the others are stopped."""
    seats = {
        f"lab_{person}": {
            "person": person,
            "uid": uid,
            "owner": uid,
            "home": f"/srv/{person}",
            "ports": {"ssh": uid},
            "token": f"{uid:064x}",
            "ssh_host_ed25519_key.pub": f"ssh-ed25519 {person}",
            "files": {"round-1": person},
        }
        for person, uid in PEOPLE.items()
    }
    return {
        "seats": seats,
        "leases": {"jobs": {}, "leases": {"a": lease("s0", GPUS[:1]), "b": lease("s1", GPUS[1:])}},
        "containers": containers("lab_s0", GPUS[:1]) + containers("lab_s1", GPUS[1:]),
        "pool": GPUS,
        "damaged": False,
        "claim": "",
        "published": PUBLISHED,
    }


def broken(found: Found) -> list[str]:
    """Return the laws that do not hold for findings, where those of `findings` were there before."""
    people = People(a_node(), 1, print, print)
    seats = findings()["seats"].values()
    names = ("token", "ssh_host_ed25519_key.pub", "ports", "home", "uid")
    people.known = {seat["person"]: {name: seat[name] for name in names} for seat in seats}
    people.files = {seat["person"]: seat["files"] for seat in seats}
    people.until = dict.fromkeys(PEOPLE, time.monotonic() + 3600)
    people.rotated = {"s4"}
    return [law for law, holds in people.laws_of(found, PUBLISHED).items() if not holds]


def of_seat(person: str, name: str, value: Any) -> Callable[[Found], object]:
    return lambda found: found["seats"][f"lab_{person}"].update({name: value})


def of_lease(name: str, value: Any) -> Callable[[Found], object]:
    return lambda found: found["leases"]["leases"]["a"].update({name: value})


def of_container(name: str, value: Any) -> Callable[[Found], object]:
    return lambda found: found["containers"][0].update({name: value})


DAMAGES: list[tuple[str, Callable[[Found], object]]] = [
    ("no GPU has two seats", of_container("gpus", GPUS)),
    ("no GPU has two seats", of_lease("gpus", GPUS)),
    ("a seat that runs has a lease with its GPUs", lambda found: found["leases"]["leases"].pop("a")),
    ("a lease has a seat that runs", lambda found: found.update(containers=containers("lab_s0", GPUS[:1]))),
    ("a seat has one lease", lambda found: found["leases"]["leases"].update(c=lease("s0", []))),
    ("leases are of GPUs of the pool", lambda found: found.update(pool=GPUS[:1])),
    ("no lease is over", of_lease("left_s", 0.0)),
    ("no lease is longer than was asked for", of_lease("left_s", 3700.0)),
    ("both containers of a seat run", of_container("running", False)),
    ("containers have no rights", of_container("privileged", True)),
    ("containers have no rights", of_container("capabilities", ["NET_ADMIN"])),
    ("each person has one seat", lambda found: found["seats"].pop("lab_s3")),
    ("each seat has the uid of its person", of_seat("s2", "uid", 5003)),
    ("host keys, ports and homes are those of before", of_seat("s2", "ports", {"ssh": 1})),
    ("host keys, ports and homes are those of before", of_seat("s2", "home", "/srv/s3")),
    ("tokens are those of before", of_seat("s2", "token", "f" * 64)),
    ("each seat has a token", of_seat("s4", "token", "")),
    ("homes have all their files", of_seat("s2", "files", {})),
    ("homes belong to their person", of_seat("s2", "owner", 0)),
    ("the file of leases was never damaged", lambda found: found.update(damaged=True)),
    ("no claim is left", lambda found: found.update(claim="{}")),
    ("the published version is that of the report", lambda found: found.update(published={})),
]


def test_all_laws_hold_for_whole_seats() -> None:
    assert broken(findings()) == []


@pytest.mark.parametrize(("law", "damage"), DAMAGES)
def test_each_law_fails_where_it_is_broken(law: str, damage: Callable[[Found], object]) -> None:
    found = findings()
    damage(found)
    assert law in broken(found)


def test_another_token_is_allowed_to_who_has_asked_for_it() -> None:
    found = findings()
    of_seat("s4", "token", "e" * 64)(found)
    assert broken(found) == []


def test_a_stopped_container_has_no_gpu() -> None:
    found = findings()
    for container in found["containers"][:2]:
        container["running"] = False
    assert running(found) == {"lab_s1": {"GPU-1"}}


@pytest.mark.parametrize(
    ("seats", "twice"),
    [
        ({}, []),
        ({"a": {"x"}, "b": {"y"}, "c": set()}, []),
        ({"a": {"x", "y"}, "b": {"z"}, "c": {"y"}}, ["y"]),
    ],
)
def test_gpus_of_two_seats_are_found(seats: dict[str, set[str]], twice: list[str]) -> None:
    assert shared_gpus(seats) == twice


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("", "lost"),
        ('{"schema": "provisioner/me/1", "state": "running", "problems": []}', "running"),
        ('{"schema": "provisioner/me/1", "left_s": 60, "problems": []}', "done"),
        ('{"schema": "provisioner/problems/1", "problems": [{"code": "no_free_gpu"}]}', "no_free_gpu"),
    ],
)
def test_the_end_of_a_command_is_read_from_its_document(text: str, end: str) -> None:
    assert outcome(text)[0] == end


def test_a_command_runs_in_a_shell_of_its_person() -> None:
    argv = command("s1", ("renew", "--hours", "3"))
    assert argv[argv.index("--reuid") + 1] == "s1"
    assert argv[-4:] == ["renew", "--hours", "3", "--json"]
