"""What the control machine reads of the answers of a broker: of the real node code, through the real Ansible."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters.ansible.broker_answers import parse_answers
from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.ansible.play import HostEvent
from provisioner.domain.rollout.leases import BrokerAnswer, BrokerRequest
from provisioner.domain.values.problem import Problem
from tests.adapters.ansible.test_fleet import LOCAL, inventory_in
from tests.playbooks.broker_world import Node, orders
from tests.playbooks.test_broker_program import Daemon, daemon  # noqa: F401  (a fixture)

SEATS, USAGE = BrokerRequest(verb="seats"), BrokerRequest(verb="usage", since=date(2027, 3, 1))
STOP = BrokerRequest(verb="stop", seat="ml_anna", reason="x")


def parse(answers: Any) -> tuple[BrokerAnswer, ...] | Problem:
    return parse_answers(HostEvent("n1", "ok", {"record": {"answers": answers}}))


def test_what_the_node_code_answers_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Any) -> None:
    assert engine
    monkeypatch.setattr(orders, "routes", list)
    node = Node(tmp_path)
    node.ask("anna", "up", gpus=1, hours=8)
    node.ends["up"] = "failed"
    node.ask("bob", "up", gpus=0)
    answer = {"ok": True, **node.ask("root", "release", seat="ml_anna", reason="course")}
    found = parse([{"ok": True, **node.ask("root", "seats")}, answer])
    assert not isinstance(found, Problem)
    (anna,) = found[0].seats
    assert (anna.lab, anna.person, anna.released, len(anna.gpus)) == ("ml", "anna", "course", 1)
    assert anna.until is not None
    assert anna.ended is not None
    assert found[1].seat == anna


def test_the_broker_of_a_node_is_asked_through_ansible(
    daemon: Daemon,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    daemon.start()
    monkeypatch.setattr("provisioner.adapters.ansible.fleet.BROKER_SOCKET", str(daemon.path))
    nodes = AnsibleFleet(inventory_in(tmp_path, n1=LOCAL), lambda _: None, state_root=str(daemon.state_root))
    found = nodes.ask_brokers({"n1": [SEATS, USAGE, STOP], "n2": []})["n1"]
    assert not isinstance(found, Problem), found
    assert [answer.problem and answer.problem.code for answer in found] == [None, None, "no_seat"]
    assert (found[0].seats, found[1].rows, found[1].lab) == ((), (), "ml")
    daemon.end(9)
    (answer,) = nodes.ask_brokers({"n1": [SEATS]})["n1"]
    assert isinstance(answer, BrokerAnswer)
    assert answer.problem is not None
    assert answer.problem.code == "broker_down"
