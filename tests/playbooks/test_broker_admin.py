"""What root may ask of the broker: who has what, more time, an end with or without grace, and a new version."""

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.broker_world import DOCUMENT, GPUS, PEOPLE, Node, orders, version_of
from tests.playbooks.node_code import module_util

ask, requests = module_util("admin.ask"), module_util("broker.request")
pytestmark = pytest.mark.usefixtures("engine")
HOUR = 3600
SEAT, WHY = "ml_anna", "needed for the exam on Friday"
NAMED: dict[str, Any] = {"seat": SEAT, "reason": WHY}
FILES: Any = DOCUMENT["files"]
NEW = {**DOCUMENT, "files": {**FILES, "more.txt": ["x"]}}
OF_ROOT: dict[str, dict[str, Any]] = {
    "seats": {},
    "usage": {},
    "release": NAMED,
    "stop": NAMED,
    "upgrade_seat": NAMED,
    "extend": {**NAMED, "hours": 5},
}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(orders, "routes", list)
    return Node(tmp_path)


def notice(node: Node, seat: str = SEAT) -> str:
    path = node.seat(seat).folder / "notice/lease.txt"
    return path.read_text() if path.exists() else ""


# --- who may ask


@pytest.mark.parametrize("verb", OF_ROOT)
def test_only_root_may_ask(node: Node, verb: str) -> None:
    node.ask("anna", "up")
    for name in ("anna", "bob"):
        assert node.refused(name, verb, **OF_ROOT[verb])["code"] == "not_allowed"
    assert (node.running, node.kinds()) == ({SEAT}, ["up"])
    assert node.ask("root", verb, **OF_ROOT[verb])


@pytest.mark.parametrize(
    ("verb", "over", "what"),
    [
        ("stop", {"reason": "a\nb"}, "`reason` is not allowed"),
        ("stop", {"reason": "a\x1b[2J"}, "`reason` is not allowed"),
        ("stop", {"reason": " "}, "`reason` is not allowed"),
        ("stop", {"reason": "x" * 121}, "`reason` is not allowed"),
        ("stop", {"seat": "../ml_anna"}, "`seat` is not allowed"),
        ("stop", {"hours": 3}, "stop has no field 'hours'"),
        ("extend", {"hours": 0}, "`hours` is not allowed"),
        ("extend", {"hours": -1}, "`hours` is not allowed"),
        ("extend", {"hours": 8761}, "`hours` is not allowed"),
        ("usage", {"since": "2027-13-01"}, "`since` is not allowed"),
        ("seats", {"seat": SEAT}, "seats has no field 'seat'"),
    ],
)
def test_what_is_not_in_the_schema_is_refused(node: Node, verb: str, over: dict[str, Any], what: str) -> None:
    problem = node.refused("root", verb, **{**OF_ROOT[verb], **over})
    assert problem["code"] == "bad_request"
    assert what in problem["what"]


@pytest.mark.parametrize("verb", [verb for verb, values in OF_ROOT.items() if values])
def test_an_end_or_a_change_needs_a_reason_and_a_seat(node: Node, verb: str) -> None:
    for field in ("reason", "seat"):
        given = {name: value for name, value in OF_ROOT[verb].items() if name != field}
        assert f"needs {field}" in node.refused("root", verb, **given)["what"]


@pytest.mark.parametrize("verb", [verb for verb, values in OF_ROOT.items() if values])
def test_a_seat_that_is_not_a_persons_own_is_refused(node: Node, verb: str) -> None:
    node.ask("anna", "up")
    order = node.order()
    other = node.seat("ml_dora")
    other.make_folders()
    other.write(1, {**order, "seat": {**order["seat"], "name": "ml_dora", "kind": ""}}, {})
    other.commit(1)
    for seat in ("ml_dora", "ml_nobody"):
        assert node.refused("root", verb, **{**OF_ROOT[verb], "seat": seat})["code"] == "no_seat"


# --- what there is


def test_root_sees_all_seats_with_and_without_a_lease(node: Node) -> None:
    node.ask("anna", "up", gpus=1, hours=8)
    node.ask("bob", "up", gpus=0)
    node.ask("bob", "down")
    anna, bob = node.ask("root", "seats")["seats"]
    version = version_of(DOCUMENT)
    assert (anna["lab"], bob["lab"]) == ("ml", "ml")
    assert (anna["seat"], anna["person"], anna["uid"], anna["gpus"]) == (SEAT, "anna", PEOPLE["anna"], [GPUS[0]])
    assert (anna["state"], anna["left_s"], anna["environment"]) == ("active", 8 * HOUR, "default")
    assert (anna["version"], anna["newest"], anna["intent"]["wanted"]) == (version, version, "up")
    assert (bob["seat"], bob["state"], bob["left_s"], bob["until"], bob["gpus"]) == ("ml_bob", "stopped", 0, None, [])
    assert bob["intent"] == {"wanted": "down", "by": "down"}


def test_root_sees_a_seat_that_is_being_started_and_who_waits(node: Node) -> None:
    node.holds = True
    node.ask("anna", "up", gpus=2)
    node.ask("bob", "up", gpus=2, wait_s=600)
    found = node.ask("root", "seats")
    assert [(seat["person"], seat["state"], seat["job"]) for seat in found["seats"]] == [("anna", "pending", "up")]
    assert found["waiting"] == [{"uid": PEOPLE["bob"], "gpus": 2, "left_s": 600}]


def test_root_is_answered_without_a_configuration(node: Node) -> None:
    node.ask("anna", "up")
    (node.folder / "config.json").write_text("{")
    assert node.ask("root", "seats")["seats"][0]["newest"] == ""
    node.ask("root", "stop", seat=SEAT, reason=WHY)
    assert node.running == set()


# --- ends


def test_a_released_seat_stops_after_its_grace_and_its_person_sees_the_reason(node: Node) -> None:
    node.ask("anna", "up", hours=8)
    answer = node.ask("root", "release", seat=SEAT, reason=WHY)
    assert (answer["seat"]["left_s"], answer["seat"]["released"]) == (0, WHY)
    assert "10 minutes" in notice(node)
    assert WHY in notice(node)
    node.after(9 * 60)
    assert node.running == {SEAT}
    node.after(2 * 60)
    assert node.running == set()
    assert node.seat(SEAT).intent() == {"wanted": "down", "by": f"admin: {WHY}"}
    assert node.ask("anna", "status")["intent"]["by"] == f"admin: {WHY}"


def test_a_released_seat_cannot_be_prolonged_by_its_person(node: Node) -> None:
    node.ask("anna", "up", gpus=1, hours=8)
    node.ask("root", "release", seat=SEAT, reason=WHY)
    for verb, values in (("renew", {"hours": 5}), ("keep_alive", {"hours": 5, "reason": "x"})):
        problem = node.refused("anna", verb, **values)
        assert problem["code"] == "released"
        assert WHY in problem["what"]
    node.ask("anna", "up", gpus=0, restart=True)
    assert node.refused("anna", "renew", hours=5)["code"] == "released"
    node.after(11 * 60)
    assert node.running == set()


def test_releasing_twice_does_not_begin_a_new_grace(node: Node) -> None:
    node.ask("anna", "up")
    node.ask("root", "release", seat=SEAT, reason=WHY)
    node.after(5 * 60)
    node.ask("root", "release", seat=SEAT, reason="again")
    node.after(6 * 60)
    assert node.running == set()


def test_a_seat_that_is_released_while_it_starts_stops_after_its_grace(node: Node) -> None:
    node.holds = True
    node.ask("anna", "up")
    node.ask("root", "release", seat=SEAT, reason=WHY)
    node.holds = False
    node.finish()
    assert node.running == {SEAT}
    assert WHY in notice(node)
    node.after(11 * 60)
    assert node.running == set()


def test_a_stop_is_at_once_and_the_person_may_start_again(node: Node) -> None:
    node.ask("anna", "up")
    answer = node.ask("root", "stop", seat=SEAT, reason=WHY)
    assert (answer["seat"]["state"], answer["seat"]["why"], node.running) == ("stopping", "admin", set())
    assert node.seat(SEAT).intent() == {"wanted": "down", "by": f"admin: {WHY}"}
    assert node.ask("root", "stop", seat=SEAT, reason=WHY)["seat"]["state"] == "stopped"
    node.ask("anna", "up")
    assert node.running == {SEAT}
    assert node.ask("anna", "renew", hours=5)["left_s"] == 24 * HOUR


def test_a_stop_needs_no_room_on_the_disk(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.ask("anna", "up")

    def full(*_: Any, **__: Any) -> None:
        raise module_util("base.problem").io_problem(OSError(28, "No space left on device"))

    monkeypatch.setattr(node.keeper.store, "write_leases", full)
    node.ask("root", "stop", seat=SEAT, reason=WHY)
    assert node.running == set()


# --- more time


def test_root_prolongs_beyond_the_ceiling_of_the_group_also_while_others_wait(node: Node) -> None:
    node.ask("anna", "up", gpus=2, hours=1)
    node.ask("bob", "up", gpus=2, wait_s=3600)
    assert node.refused("anna", "renew", hours=2)["code"] == "somebody_waits"
    assert node.ask("root", "extend", seat=SEAT, hours=8760, reason=WHY)["seat"]["left_s"] == 8760 * HOUR


def test_more_time_takes_a_release_back_and_replaces_the_notice(node: Node) -> None:
    node.ask("anna", "up")
    node.ask("root", "release", seat=SEAT, reason=WHY)
    node.after(5 * 60)
    node.ask("root", "extend", seat=SEAT, hours=5, reason="the exam is {moved}")
    assert WHY not in notice(node)
    assert "at least 5 hours are left. Reason: the exam is {moved}" in notice(node)
    node.after(HOUR)
    assert node.ask("anna", "renew", hours=6)["left_s"] == 6 * HOUR


def test_more_time_for_a_stopped_seat_is_refused(node: Node) -> None:
    node.ask("anna", "up")
    node.ask("anna", "down")
    assert node.refused("root", "extend", seat=SEAT, hours=5, reason=WHY)["code"] == "no_lease"


# --- a new version


def test_root_brings_a_running_seat_to_the_published_version(node: Node) -> None:
    node.ask("anna", "up", gpus=1)
    before = node.order()["seat"]
    node.configure(environments={"default": node.publish(NEW)})
    assert node.ask("root", "seats")["seats"][0]["newest"] == version_of(NEW) != before["version"]
    node.ask("root", "upgrade_seat", seat=SEAT, reason=WHY)
    order = node.order()
    assert order["seat"] == {**before, "version": version_of(NEW)}
    assert order["when_busy"] == {"policy": "force", "seconds": 0, "reason": WHY}
    assert node.running == {SEAT}
    assert f"restarted your seat with a new version; your files stay. Reason: {WHY}" in notice(node)


def test_the_person_of_a_running_seat_sees_that_there_is_a_new_version_until_it_has_it(node: Node) -> None:
    node.ask("anna", "up", hours=2)
    node.look()
    assert notice(node) == ""
    node.configure(environments={"default": node.publish(NEW)})
    node.look()
    assert notice(node).count("provision me upgrade --now") == 2
    node.after(HOUR)
    assert "Your seat ends in 60 minutes" in notice(node)
    assert notice(node).count("provision me upgrade --now") == 2
    node.ask("anna", "upgrade", now=True)
    node.look()
    assert "upgrade" not in notice(node)
    assert "Your seat ends in 60 minutes" in notice(node)


def test_a_seat_whose_environment_is_no_longer_published_shows_no_new_version(node: Node) -> None:
    node.ask("anna", "up")
    node.configure(environments={})
    node.look()
    assert notice(node) == ""


def test_a_seat_that_has_the_newest_version_is_not_restarted(node: Node) -> None:
    node.ask("anna", "up")
    node.ask("root", "upgrade_seat", seat=SEAT, reason=WHY)
    assert (node.kinds(), notice(node)) == (["up"], "")


def test_a_stopped_seat_is_not_upgraded(node: Node) -> None:
    node.ask("anna", "up")
    node.ask("anna", "down")
    node.configure(environments={"default": node.publish(NEW)})
    assert node.refused("root", "upgrade_seat", seat=SEAT, reason=WHY)["code"] == "no_lease"


def test_a_seat_that_is_being_changed_is_not_upgraded_at_the_same_time(node: Node) -> None:
    node.ask("anna", "up")
    node.holds = True
    node.ask("anna", "rotate_token", now=True)
    node.configure(environments={"default": node.publish(NEW)})
    assert node.refused("root", "upgrade_seat", seat=SEAT, reason=WHY)["code"] == "seat_changing"


# --- the question of the control machine


class Listener:
    """A socket that gives the same answer to each request, and keeps what was asked."""

    def __init__(self, path: Path, answer: bytes, most: int) -> None:
        self.asked: list[Any] = []
        self._link, self._answer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), answer
        self._link.bind(str(path))
        self._link.listen(8)
        self.thread = threading.Thread(target=self._serve, args=[most])
        self.thread.start()

    def _serve(self, most: int) -> None:
        for _ in range(most):
            self._one()

    def _one(self) -> None:
        link, _ = self._link.accept()
        with link:
            self.asked.append(json.loads(link.makefile().readline()))
            try:
                link.sendall(self._answer)
            except OSError:  # it was too long for the other side
                return

    def close(self) -> None:
        self.thread.join()
        self._link.close()


def an_order(root: Path, *found: dict[str, Any]) -> dict[str, Any]:
    return {"state_root": str(root), "socket": str(root / "b.sock"), "requests": list(found)}


def test_each_request_gets_its_answer(open_folder: Path) -> None:
    listener = Listener(open_folder / "b.sock", b'{"v": 1, "id": "x", "ok": true, "seats": []}\n', 2)
    record = ask.answer_requests(an_order(open_folder, {"verb": "seats"}, {"verb": "usage", "since": "2027-01-01"}))
    listener.close()
    assert record == {"answers": [{"ok": True, "seats": []}] * 2}
    for asked in listener.asked:
        assert requests.parse_request(json.dumps(asked).encode()).verb in ("seats", "usage")


@pytest.mark.parametrize("answer", [b"", b"no json\n", b"[" * 600_001], ids=["closed", "no json", "too long"])
def test_an_answer_that_cannot_be_read_is_a_problem(open_folder: Path, answer: bytes) -> None:
    listener = Listener(open_folder / "b.sock", answer, 1)
    (found,) = ask.answer_requests(an_order(open_folder, {"verb": "seats"}))["answers"]
    listener.close()
    assert (found["ok"], found["problem"]["code"]) == (False, "broker_down")


def test_a_broker_that_does_not_listen_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "self_service").mkdir()
    (tmp_path / "self_service/config.json").write_text("{}")
    (found,) = ask.answer_requests(an_order(tmp_path, {"verb": "seats"}))["answers"]
    assert found["problem"]["code"] == "broker_down"


def test_a_node_without_self_service_says_so(tmp_path: Path) -> None:
    (found,) = ask.answer_requests(an_order(tmp_path, {"verb": "seats"}))["answers"]
    assert found["problem"]["code"] == "no_self_service"
