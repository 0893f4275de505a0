"""The verbs of the broker, with jobs that are carried out at once by a stand-in."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.builders import a_locked_image
from tests.domain.seats import DOCUMENTS, a_seat
from tests.playbooks.broker_world import (
    DOCUMENT,
    GPUS,
    PEOPLE,
    Node,
    a_group,
    an_environment,
    orders,
    verbs,
    version_of,
)
from tests.playbooks.node_code import module_util

pytestmark = pytest.mark.usefixtures("engine")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC2Vb3m3hGZ7gQkM1x7h1m9S9w3zqk3yq8e0mYbX6z1B"
OTHER_KEY = KEY.replace("C2Vb", "C2Vc")
BESIDE = "127.0.0.23"  # seats of the other tests, which run at the same time, have another address


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(orders, "routes", list)
    monkeypatch.setattr(orders, "is_clock_synchronised", lambda: True)
    monkeypatch.setattr(verbs, "is_clock_synchronised", lambda: True)
    return Node(tmp_path)


# --- up


def test_up_starts_a_seat_with_a_lease(node: Node) -> None:
    node.holds = True
    answer = node.ask("anna", "up", gpus=1, hours=8, keys=[KEY])
    assert answer["state"] == "starting"
    assert answer["seat"]["ssh"] | {"host_key": ""} == {
        "host": "127.0.0.22",
        "port": 24000,
        "user": "anna",
        "host_key": "",
    }
    node.holds = False
    node.finish()
    answer = node.ask("anna", "status")
    seat = answer["seat"]
    assert answer["state"] == seat["state"] == "running"
    assert (seat["name"], seat["gpus"], seat["left_s"]) == ("ml_anna", [GPUS[0]], 8 * 3600)
    assert (seat["environment"], seat["version"]) == ("default", version_of(DOCUMENT))
    assert seat["jupyter"] == "http://127.0.0.22:24001/lab"
    assert answer["lease"]["state"] == "active"
    assert node.running == {"ml_anna"}


def test_the_order_names_what_the_admin_has_published_and_the_account(node: Node) -> None:
    node.ask("anna", "up", keys=[KEY])
    order = node.order()
    seat = order["seat"]
    assert (order["by"], order["image"], order["registry"]["address"]) == (
        "broker",
        an_environment()["image"],
        "registry.lab:5201",
    )
    assert {name: order["claim"][name] for name in ("scope", "seats", "lab")} == {
        "scope": "seats",
        "seats": ["ml_anna"],
        "lab": "ml",
    }
    assert "fence" not in order["claim"]
    assert (seat["kind"], seat["person"], seat["user"], seat["uid"]) == ("self_service", "anna", "anna", PEOPLE["anna"])
    assert (seat["home"], seat["subnet"]) == ("/srv/provisioner/homes/anna", "10.213.0.0/28")
    assert (seat["gpus"], seat["gpu_driver"], seat["shared"]) == ([GPUS[0]], "nvidia", False)
    assert f"# ml_anna {PEOPLE['anna']} /srv/provisioner/homes/anna\n" in order["files"]["compose.yaml"]
    assert GPUS[0] in order["files"]["compose.yaml"]
    assert order["files"]["authorized_keys"] == f"{KEY}\n"


def test_the_files_of_a_seat_are_those_that_the_control_machine_would_send(node: Node) -> None:
    made = DOCUMENTS.bundle(a_seat(name="ml_x", lab="ml", kind="self_service"), a_locked_image()).document
    environment = node.publish(json.loads(made.model_dump_json()))
    assert environment["version"] == made.digest[:12]
    node.configure(environments={"default": environment})
    node.ask("anna", "up", keys=[KEY])
    order = node.order()
    seat = a_seat().model_validate({name: value for name, value in order["seat"].items() if name != "version"})
    assert order["files"] == made.fill(seat)
    assert 'restart: "no"' in order["files"]["compose.yaml"]
    assert "cull_idle_timeout = 14400\n" in order["files"]["jupyter_server_config.py"]  # idle_hours of the group


def test_mig_devices_are_leased_by_their_own_names(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.gpus = tuple(f"MIG-5a3fbe51-0a55-4b7a-9c62-00000000000{number}" for number in range(3))
    monkeypatch.setattr(orders, "cdi_devices", lambda _: [f"nvidia.com/gpu={uuid}" for uuid in node.gpus])
    node.configure(pool=list(node.gpus))
    node.look()
    node.ask("anna", "up", gpus=2)
    order = orders.with_driver(node.order())
    assert (order["seat"]["gpus"], order["seat"]["gpu_driver"]) == (list(node.gpus[:2]), "cdi")
    assert all(f'- "nvidia.com/gpu={uuid}"' in order["files"]["compose.yaml"] for uuid in node.gpus[:2])
    assert node.ask("anna", "status")["seat"]["gpus"] == list(node.gpus[:2])
    assert node.refused("bob", "up", gpus=2)["code"] == "no_free_gpu"
    assert node.ask("bob", "up", gpus=1)["seat"]["gpus"] == [node.gpus[2]]
    node.start()  # a broker that reads them from disk
    assert {lease.gpus for lease in node.keeper.state.leases.values()} == {node.gpus[:2], node.gpus[2:]}


def test_a_document_for_seats_that_the_engine_starts_by_itself_is_refused(node: Node) -> None:
    made = DOCUMENTS.bundle(a_seat(name="ml_x", lab="ml"), a_locked_image()).document
    node.configure(environments={"default": node.publish(json.loads(made.model_dump_json()))})
    problem = node.refused("anna", "up")
    assert (problem["code"], "without a lease" in problem["what"]) == ("bad_document", True)
    assert not node.keeper.state.leases


def test_up_twice_gives_one_seat_and_one_answer(node: Node) -> None:
    node.holds = True
    answers = [node.ask("anna", "up") for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert node.kinds() == ["up"]
    node.holds = False
    node.finish()
    assert node.ask("anna", "up")["state"] == "running"
    assert node.kinds() == ["up"]


def test_seats_of_two_people_have_different_ports_subnets_and_gpus_while_both_are_being_started(node: Node) -> None:
    node.holds = True
    for name in ("anna", "bob", "cem"):
        node.ask(name, "up")
    node.holds = False
    node.finish()
    found = [node.order(f"ml_{name}")["seat"] for name in ("anna", "bob", "cem")]
    assert [seat["ports"]["ssh"] for seat in found] == [24000, 24002, 24004]
    assert [seat["subnet"] for seat in found] == ["10.213.0.0/28", "10.213.0.16/28", "10.213.0.32/28"]
    assert len({gpu for seat in found for gpu in seat["gpus"]}) == 3


def test_a_seat_keeps_ports_subnet_home_and_gpus(node: Node) -> None:
    node.ask("bob", "up")
    node.ask("anna", "up", keys=[KEY])
    before = node.order()["seat"]
    for name in ("bob", "anna"):
        node.ask(name, "down")
    node.configure(ports={"first": 25000, "last": 25999}, homes="/srv/other", subnets=["10.99.0.0/16"])
    node.ask("anna", "up")
    after = node.order()["seat"]
    assert after == before


def test_a_seat_that_did_not_start_is_as_before_and_its_gpus_are_free(node: Node) -> None:
    node.ends["up"] = "rolled_back"
    node.ask("anna", "up", gpus=2)
    answer = node.ask("anna", "status")
    assert (answer["state"], answer["ended"]["state"], answer["ended"]["problems"][0]["code"]) == (
        "absent",
        "rolled_back",
        "x",
    )
    assert node.ask("bob", "up", gpus=2)["state"] == "starting"


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"gpus": 3}, "too_many_gpus"),
        ({"hours": 25}, "too_many_hours"),
        ({"environment": "nlp"}, "no_such_environment"),
        ({"environment": "secret"}, "no_such_environment"),
    ],
)
def test_up_is_refused_above_the_ceilings_of_the_group(node: Node, values: dict[str, Any], code: str) -> None:
    node.configure(environments={"default": an_environment(), "secret": an_environment()})
    assert node.refused("anna", "up", **values)["code"] == code
    assert not node.launched


def test_the_group_is_the_first_whose_unix_group_the_account_has(node: Node) -> None:
    staff = a_group(unix="lab-students", gpus=3, hours=168)
    node.configure(groups={"student": a_group(gpus=0), "staff": staff})
    assert node.ask("anna", "environments")["environments"][0] | {"version": ""} == {
        "name": "default",
        "version": "",
        "torch": "2.8.0",
        "max_gpus": 3,
        "max_hours": 168,
    }
    node.configure(groups={"other": a_group(unix="x")})
    assert node.refused("anna", "up")["code"] == "no_group"


@pytest.mark.parametrize("person", ["anna", "", "cem"])
def test_a_seat_of_the_admin_is_not_changed_and_its_person_gets_no_other_one(node: Node, person: str) -> None:
    """A seat of the node itself, which has no person, may have this name, too."""
    node.ask("anna", "up")
    order = node.order()
    del order["seat"]["kind"]
    order["seat"]["person"] = person
    node.seat("ml_anna").write(9, order, {})
    node.seat("ml_anna").commit(9)
    assert node.refused("anna", "up")["code"] == "seat_of_the_lab"


@pytest.mark.parametrize("name", ["ml_anna", "ml-anna"])
def test_a_seat_of_another_uid_is_not_given_to_the_account_of_its_name(node: Node, name: str) -> None:
    node.ask("anna", "up")
    order = node.order()
    node.seat("ml_anna").clear_current()
    order["seat"] |= {"uid": 6001, "name": name}
    node.seat(name).make_folders()
    node.seat(name).write(1, order, {})
    node.seat(name).commit(1)
    assert node.refused("anna", "status")["code"] == "identity_changed"


def test_an_account_whose_name_cannot_be_a_seat_has_one_all_the_same(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PEOPLE, "Li.Lei@campus.edu", 5009)
    seat = node.ask("Li.Lei@campus.edu", "up")["seat"]
    assert seat["name"].startswith("ml__li-lei-campus-ed-")
    assert seat["ssh"]["user"] == "li-lei-campus-edu"


def test_an_account_with_a_new_name_has_no_more_gpus_than_before(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.ask("anna", "up", gpus=2)
    monkeypatch.setitem(PEOPLE, "anne", PEOPLE["anna"])
    assert node.refused("anne", "up", gpus=1)["code"] == "too_many_gpus"
    assert node.ask("anne", "up", gpus=0)["seat"]["name"] == "ml_anne"
    node.ask("anne", "down")
    assert node.running == set()
    assert node.ask("anne", "up", gpus=2)["state"] == "starting"


def test_ports_on_which_a_program_listens_keep_no_person_from_a_seat(node: Node) -> None:
    node.configure(binds={"ssh": BESIDE, "jupyter": BESIDE})
    with socket.create_server((BESIDE, 24001)), socket.create_server((BESIDE, 24002)):
        assert node.ask("anna", "up")["seat"]["ssh"]["port"] == 24004
    assert node.ask("bob", "up")["seat"]["ssh"]["port"] == 24000
    environments = {"default": an_environment(), "nlp": an_environment()}
    node.configure(
        binds={"ssh": BESIDE, "jupyter": BESIDE},
        environments=environments,
        groups={"student": a_group(environments=["default", "nlp"])},
    )
    folder = node.folder / "environments"
    (folder / "nlp").symlink_to(folder / "default")
    with socket.create_server((BESIDE, 24005)):
        seat = node.ask("anna", "up", environment="nlp", switch=True)["seat"]
        assert (seat["environment"], seat["ssh"]["port"]) == ("nlp", 24004)  # its own containers listen there
        node.ask("anna", "down")
        assert node.ask("anna", "up")["seat"]["ssh"]["port"] == 24002
    node.ask("anna", "down")
    assert node.ask("anna", "up")["seat"]["ssh"]["port"] == 24002


@pytest.mark.parametrize(
    ("over", "code"),
    [
        ({"ports": {"first": 24000, "last": 24001}}, "no_free_port"),
        ({"subnets": ["192.168.7.0/28"]}, "no_free_subnet"),
        ({"homes": "/etc"}, "bad_document"),
    ],
)
def test_up_is_refused_where_there_is_no_room_on_the_node(node: Node, over: dict[str, Any], code: str) -> None:
    node.configure(**{**over, "homes": "/srv/x"})
    node.ask("bob", "up")
    node.configure(**over)
    assert node.refused("anna", "up")["code"] == code
    assert not node.keeper.state.of_person(PEOPLE["anna"])
    assert len(list((node.folder / "orders").iterdir())) == 0


# --- a seat that runs


def test_other_gpus_need_restart_and_keep_version_and_what_is_left(node: Node) -> None:
    node.ask("anna", "up", gpus=1, hours=8)
    node.after(3600)
    assert node.refused("anna", "up", gpus=2)["code"] == "restart_needed"
    new = json.loads(json.dumps(DOCUMENT))
    new["files"]["gpu_check.py"] = ["print(2)\n"]
    node.configure(environments={"default": node.publish(new)})
    seat = node.ask("anna", "up", gpus=2, restart=True)["seat"]
    assert seat["gpus"] == list(GPUS[:2])
    seat = node.ask("anna", "status")["seat"]
    assert (seat["gpus"], seat["left_s"], seat["version"]) == (list(GPUS[:2]), 7 * 3600, version_of(DOCUMENT))
    assert GPUS[1] in node.order()["files"]["compose.yaml"]
    assert node.order()["files"]["gpu_check.py"] == "print(1)\n"
    assert node.order()["when_busy"]["policy"] == "force"
    assert "anna" in node.order()["when_busy"]["reason"]


NLP = {**DOCUMENT, "environment": "nlp"}


def with_two_environments(node: Node, **over: Any) -> None:
    """Publish default and nlp for all groups."""
    both = {"default": node.publish(DOCUMENT), "nlp": node.publish(NLP)}
    usual: dict[str, Any] = {"environments": both, "groups": {"student": a_group(environments=["default", "nlp"])}}
    node.configure(**{**usual, **over})


def test_another_environment_needs_switch(node: Node) -> None:
    with_two_environments(node)
    node.ask("anna", "up")
    assert node.refused("anna", "up", environment="nlp")["code"] == "other_environment"
    node.ask("anna", "up", environment="nlp", switch=True)
    assert node.ask("anna", "up")["seat"]["environment"] == "nlp"


def test_an_upgrade_brings_a_seat_to_the_newest_version_of_its_own_environment(node: Node) -> None:
    with_two_environments(node)
    node.ask("anna", "up", environment="nlp")
    newer = json.loads(json.dumps(NLP))
    newer["files"]["gpu_check.py"] = ["print(2)\n"]
    with_two_environments(node, environments={"default": an_environment(), "nlp": node.publish(newer)})
    node.ask("anna", "upgrade", now=True)
    seat = node.ask("anna", "status")["seat"]
    assert (seat["environment"], seat["version"]) == ("nlp", version_of(newer))


@pytest.mark.parametrize(
    "left", [{"environments": {"default": an_environment()}}, {"groups": {"student": a_group()}}], ids=["node", "group"]
)
def test_a_seat_keeps_an_environment_that_is_withdrawn_until_it_stops(node: Node, left: dict[str, Any]) -> None:
    """Withdrawn from the node, or from the group of its person: no lease is broken by that."""
    with_two_environments(node)
    node.ask("anna", "up", environment="nlp", gpus=1)
    with_two_environments(node, **left)
    for asked in ({}, {"environment": "nlp"}):
        assert node.ask("anna", "up", **asked)["state"] == "running"
    assert node.ask("anna", "environments")["used"] == "nlp"
    assert node.ask("anna", "up", gpus=2, restart=True)["seat"]["environment"] == "nlp"
    assert len(node.ask("anna", "status")["seat"]["gpus"]) == 2
    refused = node.refused("anna", "upgrade", now=True)
    assert (refused["code"], refused["fix"]) == ("no_such_environment", "choose with --env one of: default")
    node.ask("anna", "down")
    assert node.ask("anna", "environments")["used"] == ""
    assert node.refused("anna", "up")["fix"] == "choose with --env one of: default"
    assert node.ask("anna", "up", environment="default")["seat"]["environment"] == "default"


def test_who_has_had_no_seat_gets_the_first_environment_that_the_node_has(node: Node) -> None:
    with_two_environments(node, environments={"nlp": node.publish(NLP)})
    assert node.ask("anna", "up")["seat"]["environment"] == "nlp"
    node.configure(environments={})
    assert node.refused("bob", "up")["fix"] == "ask the admin of the lab: none is published"


def test_new_keys_are_added_while_the_seat_runs(node: Node) -> None:
    node.ask("anna", "up", keys=[KEY])
    node.holds = True
    node.ask("anna", "up", keys=[OTHER_KEY])
    assert node.kinds() == ["up", "keys"]
    run = node.launched[-1][1]
    assert json.loads(node.keeper.store.order_path(run).read_text())["keys"] == [OTHER_KEY, KEY]
    node.finish()
    node.ask("anna", "up", keys=[KEY])
    assert node.kinds() == ["up", "keys"]


def test_renew_says_what_is_left(node: Node) -> None:
    node.ask("anna", "up", hours=2)
    node.after(3600)
    assert node.ask("anna", "renew", hours=8)["left_s"] == 8 * 3600
    assert node.refused("anna", "renew", hours=25)["code"] == "too_many_hours"
    assert node.refused("bob", "renew", hours=1)["code"] == "no_seat"


def test_renew_is_refused_while_somebody_waits(node: Node) -> None:
    node.ask("anna", "up", gpus=2, hours=2)
    node.ask("bob", "up", gpus=2, wait_s=600)
    assert node.refused("anna", "renew", hours=8)["code"] == "somebody_waits"
    assert node.ask("bob", "cancel")["state"] == "absent"
    assert node.ask("anna", "renew", hours=8)["left_s"] == 8 * 3600


def test_keep_alive_is_in_the_audit_with_its_reason(node: Node) -> None:
    node.ask("anna", "up")
    assert node.ask("anna", "keep_alive", hours=3, reason="训练要跑到明天")["left_s"] == 24 * 3600
    assert node.ask("anna", "status")["lease"]["awake_s"] == 3 * 3600


def test_down_stops_the_seat_and_frees_its_gpus(node: Node) -> None:
    node.ask("anna", "up", gpus=2)
    assert node.ask("anna", "down")["state"] == "stopping"
    assert (node.ask("anna", "status")["state"], node.running) == ("stopped", set())
    assert node.kinds() == ["up", "stop"]
    assert node.ask("bob", "up", gpus=2)["seat"]["gpus"] == list(GPUS[:2])
    assert node.ask("anna", "down")["state"] == "stopped"


def test_down_while_a_seat_is_being_started_stops_it_afterwards(node: Node) -> None:
    node.holds = True
    node.ask("anna", "up")
    assert node.ask("anna", "down")["state"] == "stopping"
    assert node.refused("anna", "up")["code"] == "seat_changing"
    node.holds = False
    node.finish()
    assert (node.kinds(), node.ask("anna", "status")["state"]) == (["up", "stop"], "stopped")


def test_upgrade_takes_the_current_version_with_the_same_lease(node: Node) -> None:
    node.ask("anna", "up")
    lease = node.ask("anna", "status")["lease"]["id"]
    assert node.ask("anna", "upgrade")["state"] == "running"
    new = json.loads(json.dumps(DOCUMENT))
    new["files"]["gpu_check.py"] = ["print(2)\n"]
    node.configure(environments={"default": node.publish(new)})
    assert node.ask("anna", "up")["seat"]["version"] == version_of(DOCUMENT)
    assert node.refused("anna", "upgrade")["code"] == "restart_needed"
    node.ask("anna", "upgrade", now=True)
    answer = node.ask("anna", "status")
    assert (answer["seat"]["version"], answer["lease"]["id"]) == (version_of(new), lease)


def test_a_stopped_seat_starts_with_the_current_version(node: Node) -> None:
    node.ask("anna", "up")
    node.ask("anna", "down")
    new = json.loads(json.dumps(DOCUMENT))
    new["files"]["gpu_check.py"] = ["print(2)\n"]
    node.configure(environments={"default": node.publish(new)})
    assert node.ask("anna", "up")["seat"]["version"] == version_of(new)


def test_rotate_token_needs_now_while_the_seat_runs(node: Node) -> None:
    assert node.refused("anna", "rotate_token", now=True)["code"] == "no_seat"
    node.ask("anna", "up")
    assert node.refused("anna", "rotate_token")["code"] == "restart_needed"
    node.ask("anna", "rotate_token", now=True)
    node.ask("anna", "down")
    node.ask("anna", "rotate_token")
    assert node.kinds() == ["up", "rotate_token", "stop", "rotate_token"]


def test_a_change_is_refused_while_another_one_runs(node: Node) -> None:
    node.ask("anna", "up")
    node.holds = True
    node.ask("anna", "rotate_token", now=True)
    assert node.refused("anna", "rotate_token", now=True)["code"] == "seat_changing"


@pytest.mark.parametrize("again", [{}, {"gpus": 1}, {"gpus": 1, "environment": "default"}], ids=str)
def test_who_asks_again_while_the_seat_starts_follows_the_same_start(node: Node, again: dict[str, Any]) -> None:
    node.holds = True
    node.ask("anna", "up", gpus=1)
    assert node.ask("anna", "up", **again)["state"] == "starting"
    assert node.kinds() == ["up"]


@pytest.mark.parametrize("begun", ["up", "rotate_token"])
def test_who_asks_for_other_gpus_while_the_seat_is_changed_asks_again_after_that(node: Node, begun: str) -> None:
    node.ask("anna", "up", gpus=0)
    node.holds = True
    node.ask("anna", begun, **({"gpus": 2, "restart": True} if begun == "up" else {"now": True}))
    assert node.refused("anna", "up", gpus=1, restart=True)["code"] == "seat_changing"
    node.finish()
    node.ask("anna", "up", gpus=1, restart=True)
    node.finish()
    assert len(node.ask("anna", "up", gpus=1)["seat"]["gpus"]) == 1


# --- who waits


def test_who_finds_no_free_gpu_learns_who_has_them_and_until_when(node: Node) -> None:
    node.foreign = {GPUS[2]}
    node.look()
    node.ask("anna", "up", gpus=2, hours=3)
    problem = node.refused("bob", "up")
    assert problem["code"] == "no_free_gpu"
    assert "anna (until 2" in problem["what"]
    assert "root (not by a lease)" in problem["what"]
    node.configure(show_names=False)
    problem = node.refused("bob", "up")
    assert "anna" not in problem["what"]
    assert "root" not in problem["what"]
    assert "somebody (until 2" in problem["what"]


def test_a_gpu_with_a_lease_is_no_gpu_without_one_where_the_clock_is_not_kept_right(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "is_clock_synchronised", lambda: False)
    node.configure(pool=list(GPUS[:2]))
    node.ask("anna", "up", gpus=2)
    assert node.refused("bob", "up")["what"].endswith("in use: anna, anna")


# --- time that has passed since the last look counts for what was there, and not for what is asked for now


def test_who_waits_has_the_place_for_as_long_as_was_asked_for(node: Node) -> None:
    node.configure(pool=list(GPUS[:2]))
    node.ask("anna", "up", gpus=2)
    node.now += 50
    assert node.ask("bob", "up", wait_s=40)["state"] == "waiting"
    node.now += 39
    node.keeper.tick()
    assert node.ask("bob", "status")["position"] == 1
    node.now += 1
    node.keeper.tick()
    assert "position" not in node.ask("bob", "status")


def test_renewed_and_kept_alive_hours_begin_when_they_are_asked_for(node: Node) -> None:
    node.ask("anna", "up", hours=1)
    node.now += 50
    assert node.ask("anna", "renew", hours=2)["left_s"] == 7200
    node.now += 50
    node.ask("anna", "keep_alive", hours=1, reason="a long run")
    node.keeper.tick()
    (lease,) = node.keeper.state.of_seat("ml_anna")
    assert (lease.left_s, lease.awake_s) == (7150, 3600)


def test_a_lease_begins_when_its_seat_runs(node: Node) -> None:
    node.holds = True
    node.ask("anna", "up", hours=1)
    node.now += 50
    node.finish()
    assert node.ask("anna", "status")["lease"]["left_s"] == 3600


def test_an_extended_lease_and_the_grace_of_a_released_one_have_their_whole_time(node: Node) -> None:
    node.ask("anna", "up", hours=1)
    node.now += 50
    node.ask("root", "extend", seat="ml_anna", hours=2, reason="a course")
    (lease,) = node.keeper.state.of_seat("ml_anna")
    assert lease.left_s == 7200
    node.now += 50
    node.ask("root", "release", seat="ml_anna", reason="the course is over")
    (lease,) = node.keeper.state.of_seat("ml_anna")
    assert (lease.left_s, lease.grace_s) == (0, lease.terms.grace_s)


@pytest.mark.parametrize("code", ["gpu_in_use", "gpu_held", "port_taken", "claimed", "not_healthy"])
def test_what_a_job_has_found_names_others_only_where_the_lab_shows_names(node: Node, code: str) -> None:
    naming = {"code": code, "what": "pid 7 of bob", "why": "y", "fix": "see ml_bob"}
    node.keeper.ended["ml_anna"] = {"kind": "up", "state": "failed", "problems": [naming]}
    assert node.ask("anna", "status")["ended"]["problems"] == [naming]
    node.configure(show_names=False)
    (problem,) = node.ask("anna", "status")["ended"]["problems"]
    assert (problem["code"], "bob" in str(problem)) == (code, code == "not_healthy")


@pytest.mark.parametrize("is_broken", [False, True], ids=["a small pool", "a broken GPU"])
def test_a_wish_that_cannot_come_true_does_not_wait_and_holds_up_no_one(node: Node, is_broken: bool) -> None:
    node.configure(pool=list(GPUS[:2] if is_broken else GPUS[:1]))
    node.ask("anna", "up")
    if is_broken:
        broken = {GPUS[1]: module_util("lease.state").Card("unhealthy")}
        node.keeper.state = node.keeper.state._replace(cards={**node.keeper.state.cards, **broken})
    assert node.refused("bob", "up", gpus=2, wait_s=600)["code"] == "too_many_gpus"
    assert node.ask("anna", "renew", hours=8)["left_s"] > 0
    assert node.ask("cem", "up", gpus=1, wait_s=600)["position"] == 1


def test_who_waits_gets_an_offer_and_then_the_gpu(node: Node) -> None:
    node.ask("anna", "up", gpus=2)
    answer = node.ask("bob", "up", gpus=2, wait_s=600)
    assert (answer["state"], answer["position"], answer["seat"]) == ("waiting", 1, None)
    assert [one["name"] for one in answer["holders"]] == ["anna", "anna"]
    assert node.ask("cem", "up", gpus=1, wait_s=600)["position"] == 2
    node.ask("anna", "down")
    assert node.ask("bob", "status")["state"] == "offered"
    assert node.refused("dora", "up", gpus=2)["code"] == "no_free_gpu"
    assert node.ask("bob", "up", gpus=2, wait_s=600)["seat"]["gpus"] == list(GPUS[:2])
    assert node.ask("cem", "up", gpus=1, wait_s=600)["seat"]["gpus"] == [GPUS[2]]


def occupy(node: Node) -> None:
    """Let four seats be changed, for longer than a place lasts without a request."""
    node.holds = True
    node.ask("anna", "rotate_token", now=True)
    for name in ("bob", "cem", "dora"):
        node.ask(name, "up", gpus=0)


def change_often(node: Node) -> None:
    """Let the person who waits change the own seat, which is stopped, as often as is allowed."""
    for _ in range(9):
        node.ask("eve", "rotate_token")


@pytest.mark.parametrize(("refuse", "code"), [(occupy, "node_occupied"), (change_often, "too_often")])
def test_who_waits_and_is_refused_for_a_while_keeps_the_place(
    node: Node, refuse: Callable[[Node], None], code: str
) -> None:
    node.ask("anna", "up", gpus=2)
    node.ask("eve", "up", gpus=0)
    node.ask("eve", "down")
    assert node.ask("eve", "up", gpus=2, wait_s=3600)["position"] == 1
    refuse(node)
    for _ in range(6):
        node.after(20, step=20)
        assert node.refused("eve", "up", gpus=2, wait_s=3600)["code"] == code
    assert node.ask("eve", "status")["position"] == 1
    assert node.refused("eve", "up", gpus=2)["code"] == code  # it does not wait
    node.after(70)
    assert node.ask("eve", "status")["state"] == "stopped"


def test_who_is_refused_gets_no_place(node: Node) -> None:
    node.ask("anna", "up", gpus=2)
    occupy(node)
    assert node.refused("eve", "up", gpus=2, wait_s=3600)["code"] == "node_occupied"
    assert node.ask("eve", "status")["state"] == "absent"


def test_status_shows_what_the_seat_uses_on_the_disk_and_its_limit(node: Node) -> None:
    assert node.ask("anna", "status")["disk"] is None
    node.ask("anna", "up")
    assert node.ask("anna", "status")["disk"] == {"use": None, "limit": None}
    use = {"measured_at": "2026-11-30T03:00:00+00:00", "home_bytes": 7, "layer_bytes": None, "complete": False}
    folder = node.seat("ml_anna").folder
    (folder / "disk.json").write_text(json.dumps(use))
    (folder / "disk_limit").write_text("9")
    assert node.ask("anna", "status")["disk"] == {"use": use, "limit": 9}
    assert node.ask("bob", "status")["disk"] is None


def test_status_shows_the_kernels_of_the_own_seat_as_they_were_seen_last(node: Node) -> None:
    node.ask("anna", "up")
    assert node.ask("anna", "status")["kernels"] is None
    kernel = {"name": "a.ipynb", "state": "idle", "since": "2026-11-30T08:00:00Z", "gpu_bytes": 0}
    node.kernels = {"ml_anna": {"all": 1, "listed": [kernel]}}
    node.look()
    assert node.ask("anna", "status")["kernels"] == {"all": 1, "listed": [kernel]}
    node.ask("bob", "up")
    assert node.ask("bob", "status")["kernels"] is None


def test_an_order_has_the_limit_of_the_group_as_it_is_now(node: Node) -> None:
    node.configure(groups={"student": a_group(disk=5 << 30)})
    node.ask("anna", "up", gpus=1)
    assert node.order()["disk_limit"] == 5 << 30
    node.configure(groups={"student": a_group(disk=6 << 30)})
    node.ask("anna", "up", gpus=2, restart=True)  # keeps its version
    assert node.order()["disk_limit"] == 6 << 30


# --- the end of a lease


def test_a_lease_is_announced_and_then_the_seat_stops(node: Node) -> None:
    node.ask("anna", "up", hours=2)
    notice = node.seat("ml_anna").folder / "notice/lease.txt"
    node.after(3660)
    assert "60 minutes" in notice.read_text()
    assert "60 分钟" in notice.read_text()
    node.after(3000)
    assert "10 minutes" in notice.read_text()
    node.after(600)
    assert "stops in 10 minutes" in notice.read_text()
    assert node.running == {"ml_anna"}
    node.after(600)
    assert (node.running, notice.read_text()) == (set(), "")
    assert json.loads((node.seat("ml_anna").folder / "intent.json").read_text()) == {"wanted": "down", "by": "expired"}


@pytest.mark.parametrize(("hours", "minutes"), [(0.05, 3), (0.5, 30)])
def test_a_notice_says_how_much_is_left_of_a_lease_that_is_shorter_than_its_announcement(
    node: Node, hours: float, minutes: int
) -> None:
    node.configure(groups={"student": a_group(hours=hours)})
    node.ask("anna", "up")
    node.after(30)
    assert f"ends in {minutes} minutes" in (node.seat("ml_anna").folder / "notice/lease.txt").read_text()


def test_renewing_removes_the_notice(node: Node) -> None:
    node.ask("anna", "up", hours=2)
    node.after(3660)
    node.ask("anna", "renew", hours=5)
    assert (node.seat("ml_anna").folder / "notice/lease.txt").read_text() == ""


def test_a_seat_that_crashed_is_started_again_and_one_whose_gpus_were_changed_is_not(node: Node) -> None:
    node.ask("anna", "up")
    node.running.clear()
    node.look()
    assert (node.kinds(), node.running) == (["up", "resume"], {"ml_anna"})
    order = node.order()
    order["seat"]["gpus"] = list(GPUS[1:])
    node.seat("ml_anna").write(9, order, {})
    node.seat("ml_anna").commit(9)
    node.running.clear()
    node.after(300)
    assert node.kinds() == ["up", "resume", "stop"]


# --- limits


def test_ten_changes_an_hour(node: Node) -> None:
    for _ in range(5):
        node.ask("anna", "up")
        node.ask("anna", "rotate_token", now=True)
        node.ask("anna", "down")
    assert node.refused("anna", "up")["code"] == "too_often"
    assert node.ask("bob", "up")["state"] == "starting"
    node.after(3600)
    assert node.ask("anna", "up")["state"] == "starting"


def test_four_seats_at_once_are_started_and_any_number_is_stopped(node: Node) -> None:
    node.holds = True
    for name in ("anna", "bob", "cem", "dora"):
        node.ask(name, "up", gpus=0)
    assert node.refused("eve", "up", gpus=0)["code"] == "node_occupied"
    assert node.ask("eve", "status")["state"] == "absent"
    node.finish()
    for name in ("anna", "bob", "cem", "dora"):
        node.ask(name, "down")
    assert node.ask("eve", "up", gpus=0)["state"] == "starting"


def test_seats_that_crash_keep_no_other_seat_from_being_started(node: Node) -> None:
    for name in ("anna", "bob", "cem", "dora"):
        node.ask(name, "up", gpus=0)
    node.holds = True
    node.running.clear()
    node.look()
    assert node.kinds()[-4:] == ["resume"] * 4
    assert node.ask("eve", "up", gpus=0)["state"] == "starting"


def test_root_sees_everything_and_has_no_seat(node: Node) -> None:
    node.ask("anna", "up")
    assert next(iter(node.ask("root", "status")["leases"]["leases"].values()))["seat"] == "ml_anna"
    assert node.ask("root", "environments")["environments"][0]["max_gpus"] == 2
    for verb in ("up", "down"):
        assert node.refused("root", verb)["code"] == "not_allowed"


@pytest.mark.parametrize(
    ("uid", "gid", "groups"), [(5001, 100, ()), (999, 100, ("lab-students",)), (5001, 0, ("lab-students",))]
)
def test_strangers_and_accounts_of_the_system_are_refused(node: Node, uid: int, gid: int, groups: Any) -> None:
    callers = module_util("broker.callers")
    request = module_util("broker.request").Request("x", "status", {})
    with pytest.raises(Exception, match=r"account of the system|unix group") as caught:
        node.verbs.answer(request, callers.Caller(uid, gid, "x", groups))
    assert vars(caught.value)["problem"]["code"] == "not_allowed"


def test_status_of_one_person_shows_nothing_of_others(node: Node) -> None:
    node.ask("anna", "up")
    text = json.dumps(node.ask("bob", "status"))
    assert "anna" not in text
    assert GPUS[0] not in text


# --- a configuration that is damaged


@pytest.mark.parametrize("damage", [None, "", "{", "[]", '{"schema": "provisioner/self_service/9"}', '{"schema": 1}'])
def test_without_a_configuration_verbs_are_refused_and_leases_go_on(node: Node, damage: str | None) -> None:
    node.ask("anna", "up", hours=2)
    (node.folder / "config.json").unlink()
    if damage is not None:
        (node.folder / "config.json").write_text(damage)
    for verb in ("up", "status", "down", "environments"):
        assert node.refused("anna", verb)["code"] == "self_service_config"
    node.after(7200)
    assert node.running == {"ml_anna"}
    node.after(600)
    assert (node.running, node.keeper.state.leases) == (set(), {})


def test_a_document_that_is_not_that_of_its_version_is_refused(node: Node) -> None:
    (node.folder / "environments/default" / version_of(DOCUMENT) / "document.json").write_text('{"files": {}}')
    assert node.refused("anna", "up")["code"] == "environment_damaged"
    assert node.keeper.state.leases == {}


def test_a_configuration_with_a_gpu_twice_is_refused(node: Node) -> None:
    node.configure(pool=[GPUS[0], GPUS[0]])
    assert node.refused("anna", "up")["code"] == "self_service_config"


# --- seats that are not the broker's any more


def as_roster_seat(node: Node) -> None:
    order = node.order()
    del order["seat"]["kind"]
    node.seat("ml_anna").write(9, order, {})
    node.seat("ml_anna").commit(9)


def test_a_seat_that_the_control_machine_has_set_up_anew_is_never_stopped_by_the_broker(node: Node) -> None:
    node.ask("anna", "up", gpus=2, hours=1)
    as_roster_seat(node)
    node.look()
    assert node.keeper.state.leases == {}
    node.after(3 * 3600)
    assert (node.kinds(), node.running) == (["up"], {"ml_anna"})


def test_a_stop_that_was_decided_before_that_stops_nothing(node: Node) -> None:
    node.ask("anna", "up")
    as_roster_seat(node)
    node.keeper.accept(module_util("lease.requests").give_back(node.keeper.state, PEOPLE["anna"]))
    node.keeper.tick()
    node.settle()
    assert (node.kinds(), node.running, node.keeper.state.leases) == (["up"], {"ml_anna"}, {})


def test_a_seat_whose_records_are_damaged_can_be_stopped(node: Node) -> None:
    node.ask("anna", "up")
    seat = node.seat("ml_anna")
    (seat.generation(seat.current()) / "order.json").write_text("{")
    assert node.refused("anna", "up")["code"] == "seat_damaged"
    assert node.ask("anna", "status")["state"] == "running"
    node.ask("anna", "down")
    assert (node.kinds(), node.running) == (["up", "stop"], set())


# --- the end of a term


@pytest.mark.parametrize(
    ("term_ends", "stopped", "port"),
    [
        ("2020-01-31", "2020-01-31T10:00:00+00:00", 24000),
        ("2020-01-31", "2020-02-01T10:00:00+00:00", 24002),
        ("2999-01-31", "2020-01-31T10:00:00+00:00", 24002),
        (None, "2020-01-31T10:00:00+00:00", 24002),
    ],
)
def test_the_ports_of_a_seat_that_was_stopped_are_free_after_the_term(
    node: Node, monkeypatch: pytest.MonkeyPatch, term_ends: str | None, stopped: str, port: int
) -> None:
    node.ask("anna", "up")
    node.ask("anna", "down")
    journals = module_util("seat.journal")
    monkeypatch.setattr(journals, "now", lambda: stopped)
    journals.Journal(node.seat("ml_anna").folder, "me-1").append("stopped")
    node.configure(term_ends=term_ends)
    assert node.ask("bob", "up")["seat"]["ssh"]["port"] == port
    assert node.ask("anna", "up")["seat"]["ssh"]["port"] == (24002 if port == 24000 else 24000)
    assert node.order()["seat"]["subnet"] != node.order("ml_bob")["seat"]["subnet"]
