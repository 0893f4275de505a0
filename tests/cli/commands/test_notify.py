"""Which seat of a node a notice is shown in."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.cli.commands.notify import notify_lab
from provisioner.domain.rollout.report import NodeRecord
from provisioner.domain.values.node import NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from tests.builders import a_lab, a_node, self_service_facts


class Nodes:
    """Two nodes that answer, on the second of which another lab has the seat demo-student; and one that does not."""

    def __init__(self) -> None:
        self.notified: dict[str, Sequence[str]] = {}
        others = (RunningSeat(name="demo-student", lab="other", generation=1, image="x"),)
        self.found: Mapping[str, NodeFacts | Problem] = {
            "n1": a_node("n1"),
            "n2": a_node("n2", seats=others),
            "n3": Problem("unreachable", "x", "y", "z"),
        }

    def hosts(self) -> list[Any]:
        return []

    def probe(self, _nodes: Any) -> Mapping[str, NodeFacts | Problem]:
        return self.found

    def notify(self, seats: Mapping[str, Sequence[str]], _run: str, _text: str | None) -> Mapping[str, NodeRecord]:
        self.notified = dict(seats)
        return {node: NodeRecord(node=node, state="committed") for node, some in seats.items() if some}


def test_a_notice_is_shown_in_the_seat_that_the_node_has() -> None:
    nodes = Nodes()
    records = notify_lab(cast("AnsibleFleet", nodes), a_lab(), "r1", "hello", lambda _: None)
    assert nodes.notified == {"n1": ("demo-student",), "n2": ("demo_student",)}
    assert [(record.node, record.state) for record in records] == [
        ("n1", "committed"),
        ("n2", "committed"),
        ("n3", "unreachable"),
    ]


UP, DOWN = dict.fromkeys(("jupyter", "ssh"), "healthy"), dict.fromkeys(("jupyter", "ssh"), "missing")
OWN = RunningSeat(name="demo_anna", kind="self_service", lab="demo", generation=1, image="x", services=UP)
LAB = RunningSeat(name="demo-student", lab="demo", generation=1, image="x", services=UP)


@pytest.mark.parametrize(
    ("seats", "has_self_service", "notified"),
    [
        ((LAB, OWN), True, ("demo-student", "demo_anna")),
        ((OWN,), True, ("demo_anna",)),
        ((OWN,), False, ("demo_anna",)),
        ((OWN.model_copy(update={"services": DOWN}),), True, ()),
        ((OWN.model_copy(update={"lab": "other"}),), False, ("demo-student",)),
        ((), True, ()),
    ],
)
def test_a_notice_reaches_the_seats_that_people_have_started(
    seats: tuple[RunningSeat, ...], has_self_service: bool, notified: tuple[str, ...]
) -> None:
    nodes = Nodes()
    found = self_service_facts(lab="demo") if has_self_service else None
    nodes.found = {"n1": a_node("n1", seats=seats, self_service=found)}
    (record,) = notify_lab(cast("AnsibleFleet", nodes), a_lab(), "r1", "hello", lambda _: None)
    assert nodes.notified == {"n1": notified}
    assert record.state == ("committed" if notified else "unchanged")
