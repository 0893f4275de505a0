"""The order of a rollout, on a fleet that only remembers what it was asked."""

from collections.abc import Mapping, Sequence

import pytest

from provisioner.domain.event import Event
from provisioner.domain.order import Deadlines, Order, OrderedImage, OrderedRegistry
from provisioner.domain.plan import Action, Plan, Step
from provisioner.domain.problem import Problem
from provisioner.domain.report import NodeRecord, NodeState
from provisioner.domain.seat import Seat, SeatBundle
from provisioner.workflow.hands import Host, Probed
from provisioner.workflow.plan import Prepared
from provisioner.workflow.rollout import roll_out, waves
from tests.builders import a_locked_image, a_uuid

UNREACHABLE = Problem(code="unreachable", what="no answer", why="it is off", fix="switch it on")


class FakeFleet:
    """Every node does as asked, but for those named with the state that they end in."""

    def __init__(
        self, staged: Mapping[str, NodeState] | None = None, switched: Mapping[str, NodeState] | None = None
    ) -> None:
        self.ends: dict[str, Mapping[str, NodeState]] = {"stage": staged or {}, "switch": switched or {}}
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def hosts(self) -> Sequence[Host]:
        return ()

    def probe(self, nodes: Sequence[str]) -> Probed:
        raise AssertionError(f"a rollout does not probe {nodes}")

    def stage(self, orders: Mapping[str, Order]) -> Mapping[str, NodeRecord]:
        return self._answer("stage", orders, "staged")

    def switch(self, orders: Mapping[str, Order]) -> Mapping[str, NodeRecord]:
        return self._answer("switch", orders, "committed")

    def _answer(self, act: str, orders: Mapping[str, Order], good: NodeState) -> Mapping[str, NodeRecord]:
        self.asked.append((act, tuple(orders)))
        return {node: NodeRecord(node=node, state=self.ends[act].get(node, good)) for node in orders}


def a_seat(node: str) -> Seat:
    return Seat(
        name="demo-student",
        lab="demo",
        node=node,
        user="student",
        uid=1000,
        gid=1000,
        home="/srv/homes/student",
        gpus=(a_uuid(node),),
        gpu_driver="nvidia",
        ports={"ssh": 22000, "jupyter": 22001},
        binds={"ssh": "198.18.0.11", "jupyter": "127.0.0.1"},
    )


def prepared(actions: Mapping[str, Action]) -> Prepared:
    steps = tuple(
        Step(
            node=node,
            seat=None if action == "skip" else "demo-student",
            action=action,
            why="",
            problems=(UNREACHABLE,) if action == "skip" else (),
        )
        for node, action in actions.items()
    )
    bundles = {node: SeatBundle(seat=a_seat(node), image=a_locked_image(), files={}) for node in actions}
    return Prepared(Plan(lab="demo", image=None, steps=steps), bundles)


def order(node: str) -> Order:
    return Order(
        run="r1",
        seat=a_seat(node),
        image=OrderedImage(reference="r", tag="t", platform="linux/amd64"),
        registry=OrderedRegistry(address="registry.lab:5201"),
        files={},
        deadlines=Deadlines(pull=60, healthy=60, min_healthy=0),
    )


def run(actions: Mapping[str, Action], fleet: FakeFleet) -> tuple[dict[str, NodeState], list[Event]]:
    news: list[Event] = []
    records = roll_out(prepared(actions), {node: order(node) for node in actions}, fleet, news.append)
    assert [record.node for record in records] == list(actions)
    return {record.node: record.state for record in records}, news


def test_the_first_node_goes_alone_then_the_rest_and_each_wave_is_staged_before_it_switches() -> None:
    fleet = FakeFleet()
    states, _ = run({"n1": "create", "n2": "update", "n3": "create"}, fleet)
    assert fleet.asked == [("stage", ("n1",)), ("switch", ("n1",)), ("stage", ("n2", "n3")), ("switch", ("n2", "n3"))]
    assert set(states.values()) == {"committed"}


@pytest.mark.parametrize("end", ["rolled_back", "failed", "needs_attention", "unknown", "unreachable"])
def test_a_first_node_that_is_not_done_stops_the_run(end: NodeState) -> None:
    fleet = FakeFleet(switched={"n1": end})
    states, _ = run({"n1": "create", "n2": "create"}, fleet)
    assert states == {"n1": end, "n2": "not_started"}
    assert ("stage", ("n2",)) not in fleet.asked


def test_nothing_old_stops_in_a_wave_where_one_node_could_not_be_staged() -> None:
    fleet = FakeFleet(staged={"n3": "failed"})
    states, _ = run({"n1": "create", "n2": "update", "n3": "update"}, fleet)
    assert states == {"n1": "committed", "n2": "not_started", "n3": "failed"}
    assert fleet.asked[-1] == ("stage", ("n2", "n3"))


def test_nodes_without_work_are_not_asked_and_keep_their_reason() -> None:
    fleet = FakeFleet()
    states, news = run({"n1": "keep", "n2": "skip", "n3": "defer"}, fleet)
    assert states == {"n1": "unchanged", "n2": "unreachable", "n3": "deferred"}
    assert fleet.asked == []
    assert news == []


def test_a_node_that_serves_says_how_to_reach_it_and_the_hidden_jupyter_has_a_tunnel() -> None:
    records = roll_out(prepared({"n1": "create"}), {"n1": order("n1")}, FakeFleet(), lambda _: None)
    access = records[0].access
    assert access is not None
    assert access.ssh == "ssh -p 22000 student@198.18.0.11"
    assert access.tunnel == "ssh -p 22000 student@198.18.0.11 -N -L 8888:jupyter:8888"


def test_each_node_of_a_wave_is_told_about_once() -> None:
    _, news = run({"n1": "create", "n2": "create"}, FakeFleet(switched={"n2": "rolled_back"}))
    assert [(event.node, event.kind) for event in news] == [("n1", "done"), ("n2", "failed")]


def test_waves_of_nothing_are_none() -> None:
    assert waves([]) == []
    assert waves(["a"]) == [["a"]]


CLOSED = Problem(code="outside_window", what="no hour for changes", why="lab.yml", fix="wait")


def test_no_wave_begins_once_the_window_has_closed_and_the_nodes_left_are_deferred() -> None:
    fleet, news, hindrances = FakeFleet(), list[Event](), iter([None, CLOSED])
    actions: dict[str, Action] = {"n1": "update", "n2": "update", "n3": "keep"}
    orders = {node: order(node) for node in actions}
    records = roll_out(prepared(actions), orders, fleet, news.append, hindrance=lambda: next(hindrances))
    assert {r.node: r.state for r in records} == {"n1": "committed", "n2": "deferred", "n3": "unchanged"}
    assert records[1].problems == (CLOSED,)
    assert fleet.asked == [("stage", ("n1",)), ("switch", ("n1",))]
    assert (news[-1].kind, news[-1].text) == ("note", "no further wave begins: no hour for changes")


def test_a_run_without_changes_asks_for_no_window() -> None:
    def never() -> Problem:
        raise AssertionError

    records = roll_out(prepared({"n1": "keep"}), {}, FakeFleet(), lambda _: None, hindrance=never)
    assert [record.state for record in records] == ["unchanged"]
