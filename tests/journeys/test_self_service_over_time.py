"""Seats of self-service over time: ends of leases, kills of broker and containers, a power cut, a new version.

Each test starts from the state that the one before left.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.self_service import (
    PEOPLE,
    SelfService,
    login,
    refused,
    running_self_service,
    started_at,
    until,
)
from tests.lab.engine import Engine

pytestmark = [pytest.mark.lab, pytest.mark.long("self-service")]

Status = dict[str, Any]


@pytest.fixture(scope="module")
def node(testbed: Engine, program: Path) -> Iterator[SelfService]:
    with running_self_service(testbed, program) as made:
        yield made


@pytest.fixture(scope="module")
def anna(node: SelfService) -> Status:
    """The seat of anna after her first request."""
    return dict(node.up("anna", gpus=1)["seat"])


def test_leases_end_with_a_notice_when_time_is_over_and_when_a_seat_is_not_used(
    node: SelfService, anna: Status
) -> None:
    """dora has a minute, as her group says; emil does nothing in his seat. anna has a day, and is not disturbed."""
    before = started_at(node, "anna")
    notice = f"{node.seat_folder('dora')}/notice/lease.txt"
    for person in ("dora", "emil"):
        node.up(person, gpus=0)
    until(lambda: "provision me renew" in node.node.exec("sh", "-c", f"cat {notice} 2>/dev/null || true"))
    # The use of the processors is known five minutes after a seat has started; until then it counts as used.
    until(lambda: [lease["uid"] for lease in node.leases()["leases"].values()] == [PEOPLE["anna"]], 600)
    for person, why in {"dora": "expired", "emil": "idle"}.items():
        assert node.ask(person, "status")["state"] == "stopped"
        assert (node.containers(person), len(node.containers(person, stopped=True))) == ({}, 2)
        intent = json.loads(node.node.exec("cat", f"{node.seat_folder(person)}/intent.json"))
        assert intent == {"wanted": "down", "by": why}
    assert node.node.exec("cat", notice) == ""
    assert node.ask("anna", "status")["seat"] | {"left_s": 0} == anna | {"left_s": 0}
    assert started_at(node, "anna") == before


def test_a_seat_that_was_stopped_keeps_its_containers_also_with_another_key(node: SelfService, anna: Status) -> None:
    before = node.containers("anna")
    write = "echo kept >/tmp/in-the-layer; echo kept >~/in-the-home"
    assert login(node, anna, "anna", write).returncode == 0
    assert node.ask("anna", "down")["ok"]
    assert node.settled("anna")["state"] == "stopped"
    assert (node.containers("anna"), node.leases()["leases"]) == ({}, {})
    again = node.up("anna", keys=[node.public_key("dora")])["seat"]
    assert again | {"left_s": 0} == anna | {"left_s": 0}
    assert node.containers("anna") == before
    for key in ("anna", "dora"):
        assert login(node, anna, key, "cat /tmp/in-the-layer ~/in-the-home").stdout.split() == ["kept", "kept"]


def test_a_broker_that_is_killed_while_a_seat_starts_is_followed_by_one_that_ends_it(
    node: SelfService, anna: Status
) -> None:
    before = started_at(node, "anna")
    assert node.ask("bob", "up", gpus=1, keys=[node.public_key("bob")])["state"] == "starting"
    until(lambda: bool(node.containers("bob")))
    node.kill()
    node.start()
    status = node.settled("bob")
    assert (status["state"], status["ended"]["state"]) == ("running", "committed")
    assert set(status["seat"]["gpus"]).isdisjoint(anna["gpus"])
    assert login(node, status["seat"], "bob", "true").returncode == 0
    assert started_at(node, "anna") == before


def test_a_new_broker_leaves_seats_and_leases_as_they_are(node: SelfService, anna: Status) -> None:
    assert anna
    before = {person: started_at(node, person) for person in ("anna", "bob")}
    leases = node.leases()["leases"]
    node.kill()
    node.start()
    after = node.leases()["leases"]
    assert {person: started_at(node, person) for person in before} == before
    assert after.keys() == leases.keys()
    for name, lease in after.items():
        assert 0 <= leases[name]["left_s"] - lease["left_s"] < 60
        assert lease | {"left_s": 0, "samples": 0} == leases[name] | {"left_s": 0, "samples": 0}


def test_a_container_that_was_killed_is_started_again_while_time_is_left(node: SelfService, anna: Status) -> None:
    leases = node.leases()["leases"].keys()
    containers = node.containers("bob")
    node.node.exec("docker", "kill", containers["jupyter"])
    until(lambda: node.containers("bob") == containers)
    status = node.settled("bob")
    assert (status["state"], status["ended"]) == ("running", {"kind": "resume", "state": "committed", "problems": []})
    assert node.jupyter("bob", node.token("bob")) == 200
    assert node.leases()["leases"].keys() == leases
    assert anna


def test_after_a_power_cut_only_the_broker_starts_seats_again_and_only_those_with_time_left(
    node: SelfService, anna: Status
) -> None:
    leases = node.leases()["leases"].keys()
    node.node.kill()
    node.node.start()
    assert [node.containers(person) for person in ("anna", "bob", "dora", "emil")] == [{}, {}, {}, {}]
    node.start()
    for person in ("anna", "bob"):
        status = node.settled(person)
        assert (status["state"], status["ended"]["kind"]) == ("running", "resume")
        assert node.jupyter(person, node.token(person)) == 200
    assert login(node, anna, "anna", "cat /tmp/in-the-layer").stdout.split() == ["kept"]
    assert node.leases()["leases"].keys() == leases
    assert [node.containers(person) for person in ("dora", "emil")] == [{}, {}]


def test_a_new_token_replaces_the_old_one_and_restarts_jupyter_only(node: SelfService, anna: Status) -> None:
    assert anna
    old, before = node.token("anna"), {found["Name"]: found["State"]["StartedAt"] for found in node.inspect("anna")}
    assert refused(node, "anna", "rotate_token") == "restart_needed"
    assert node.ask("anna", "rotate_token", now=True)["ok"]
    assert node.settled("anna")["ended"]["state"] == "committed"
    until(lambda: node.jupyter("anna", node.token("anna")) == 200, 60)
    assert node.jupyter("anna", old) == 403
    after = {found["Name"]: found["State"]["StartedAt"] for found in node.inspect("anna")}
    assert [name for name, begun in after.items() if begun != before[name]] == [f"/{anna['name']}-jupyter-1"]


def test_a_seat_keeps_its_version_until_its_person_upgrades_it(node: SelfService, anna: Status) -> None:
    before, token = node.containers("anna"), node.token("anna")
    newer = node.publish_next_version()
    assert node.ask("anna", "up", gpus=1)["seat"]["version"] == anna["version"]
    assert refused(node, "anna", "upgrade") == "restart_needed"
    assert node.containers("anna") == before
    assert node.ask("anna", "upgrade", now=True)["ok"]
    status = node.settled("anna")
    assert (status["state"], status["ended"]["state"]) == ("running", "committed")
    assert status["seat"] | {"left_s": 0} == anna | {"left_s": 0, "version": newer}
    assert set(node.containers("anna").values()).isdisjoint(before.values())
    assert (node.token("anna"), node.jupyter("anna", token)) == (token, 200)
    assert login(node, anna, "anna", "cat ~/in-the-home").stdout.split() == ["kept"]


def test_a_second_card_comes_with_new_containers_and_takes_the_place_of_the_lease(
    node: SelfService, anna: Status
) -> None:
    before = node.containers("anna")
    assert node.ask("bob", "down")["ok"]
    assert node.settled("bob")["state"] == "stopped"
    assert refused(node, "anna", "up", gpus=2) == "restart_needed"
    assert node.containers("anna") == before
    assert node.ask("anna", "up", gpus=2, restart=True)["ok"]
    status = node.settled("anna")
    assert (status["state"], status["ended"]["state"]) == ("running", "committed")
    assert (set(status["seat"]["gpus"]), status["seat"]["gpus"][:1]) == (set(node.gpus()), anna["gpus"])
    wanted = [f"nvidia.com/gpu={uuid}" for uuid in status["seat"]["gpus"]]
    assert [found["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] for found in node.inspect("anna")] == [wanted] * 2
    (lease,) = node.leases()["leases"].values()
    assert (lease["uid"], lease["gpus"], lease["state"]) == (PEOPLE["anna"], status["seat"]["gpus"], "active")


def test_the_audit_has_a_line_for_every_change_and_no_token(node: SelfService, anna: Status) -> None:
    assert anna
    lines = node.audit()
    jobs = [(line["job"], line["outcome"]) for line in lines if line.get("uid") == PEOPLE["anna"] and "job" in line]
    kinds = ["up", "stop", "up", "resume", "rotate_token", "upgrade", "up"]
    assert jobs == [(kind, "committed") for kind in kinds]
    assert all(node.token(person) not in json.dumps(lines) for person in ("anna", "bob", "dora", "emil"))
