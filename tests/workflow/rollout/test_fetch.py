"""What is fetched before a rollout, where, and how fast."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from provisioner.domain.lab.calendar import Calendar, Window
from provisioner.domain.rollout.fetch import IMAGES, FetchedImage, FetchOrder
from provisioner.domain.rollout.order import Orders
from provisioner.domain.rollout.report import NodeRecord, NodeState
from provisioner.domain.values.event import Event
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import RunContext
from provisioner.workflow.rollout.fetch import Fetching, FetchRules, fetch, plan_fetch
from tests.builders import a_lab, a_locked_image, a_node
from tests.workflow.fake_fleet import UNREACHABLE, FakeJournal
from tests.workflow.rollout.test_preflight import prepared

ALWAYS = Calendar((), (), ZoneInfo("UTC"))
IMAGE = a_locked_image("mirror.lab:5200/pytorch/pytorch:2.10.0-cuda12.8-cudnn9-runtime")
DIGEST = IMAGE.lab.rpartition("@")[2]


class Nodes:
    """Nodes that need a second of the clock for each pull."""

    def __init__(self, states: Mapping[str, NodeState] | None = None) -> None:
        self.states, self.batches = states or {}, list[list[str]]()

    def fetch(self, orders: Orders[FetchOrder]) -> Mapping[str, NodeRecord]:
        self.batches.append(list(orders))
        assert all([*order] == [IMAGES] for order in orders.values())
        return {node: NodeRecord(node=node, state=self.states.get(node, "committed"), seconds=1.0) for node in orders}


def a_fetching(*nodes: str, size: int = 1000, settled: Mapping[str, NodeRecord] | None = None) -> Fetching:
    order = FetchOrder(run="r1", lab="demo", images=(), keep=(DIGEST,))
    known = settled or {}
    return Fetching(dict.fromkeys(nodes, order), dict.fromkeys(nodes, size), known, (*nodes, *known))


def a_context(*, stop_after: int = 1000) -> tuple[RunContext, list[Event]]:
    """`stop_after`: so many times the answer is that no stop is requested."""
    events, asked = list[Event](), iter(range(stop_after))
    return RunContext(FakeJournal(), events.append, lambda: next(asked, None) is None), events


def states(records: tuple[NodeRecord, ...]) -> dict[str, str]:
    return {record.node: record.state for record in records}


@pytest.mark.parametrize(
    ("images", "state"), [((), "wanted"), ((DIGEST,), "unchanged")], ids=["lacks the image", "has the image"]
)
def test_what_a_node_lacks_is_fetched(images: tuple[str, ...], state: str) -> None:
    facts = {"n0": a_node("n0", images=images)}
    found = plan_fetch(prepared(("update", IMAGE, 5)), facts, a_lab(), "r1", "CA")
    if state == "wanted":
        (one,) = found.orders["n0"].images
        assert (one.image.reference, one.registry.ca) == (IMAGE.lab, "CA")
        assert (found.sizes, found.orders["n0"].keep) == ({"n0": IMAGE.bytes}, (DIGEST,))
    else:
        assert (found.orders, states(tuple(found.settled.values()))) == ({}, {"n0": "unchanged"})


def test_a_seat_in_use_is_fetched_for_and_a_node_out_of_reach_is_reported() -> None:
    facts: dict[str, NodeFacts | Problem] = {"n0": a_node("n0"), "n1": UNREACHABLE}
    found = plan_fetch(prepared(("defer", IMAGE, 5), ("update", IMAGE, 5)), facts, a_lab(), "r1", None)
    assert [*found.orders] == ["n0"]
    assert states(tuple(found.settled.values())) == {"n1": "unreachable"}


def test_a_few_nodes_pull_at_a_time_and_every_node_has_a_record() -> None:
    nodes, (context, _) = Nodes({"n3": "failed"}), a_context()
    settled = {"n5": NodeRecord(node="n5", state="unchanged")}
    found = fetch(a_fetching("n1", "n2", "n3", "n4", settled=settled), nodes, FetchRules(ALWAYS, 3), context)
    assert nodes.batches == [["n1", "n2", "n3"], ["n4"]]
    assert states(found.records) == {
        "n1": "committed",
        "n2": "committed",
        "n3": "failed",
        "n4": "committed",
        "n5": "unchanged",
    }
    assert found.stopped is None


def test_no_pull_begins_after_a_stop_and_what_is_left_is_named() -> None:
    nodes, (context, _) = Nodes(), a_context(stop_after=1)
    found = fetch(a_fetching("n1", "n2"), nodes, FetchRules(ALWAYS, 1), context)
    assert nodes.batches == [["n1"]]
    assert states(found.records) == {"n1": "committed", "n2": "not_started"}
    assert found.stopped
    assert found.stopped.code == "interrupted"


def test_no_pull_begins_outside_the_window() -> None:
    later = datetime.now(UTC) + timedelta(hours=2)
    window = Window.model_validate({"from": f"{later:%H}:00", "to": f"{later + timedelta(hours=1):%H}:00"})
    nodes, (context, _) = Nodes(), a_context()
    found = fetch(a_fetching("n1"), nodes, FetchRules(Calendar((), (window,), ZoneInfo("UTC"))), context)
    assert (nodes.batches, states(found.records)) == ([], {"n1": "not_started"})
    assert found.stopped
    assert found.stopped.code == "outside_window"


def test_pulls_pause_so_that_their_average_stays_within_the_bandwidth() -> None:
    nodes, (context, events), slept = Nodes(), a_context(), list[float]()
    rules = FetchRules(ALWAYS, 2, bandwidth=100)
    fetch(a_fetching("n1", "n2", "n3", "n4"), nodes, rules, context, sleep=slept.append)
    assert nodes.batches == [["n1", "n2"], ["n3", "n4"]]
    assert 19 < sum(slept) <= 20  # 2000 bytes at 100 bytes per second, once: nothing follows the last pull
    assert [event.text for event in events] == ["waiting 20 s, to stay within 100 B/s"]


def test_an_order_is_read_as_it_was_written() -> None:
    order = plan_fetch(prepared(("create", IMAGE, 5)), {"n0": a_node("n0")}, a_lab(), "r1", None).orders["n0"]
    assert FetchOrder.model_validate_json(order.model_dump_json()) == order
    assert order.pull_seconds == a_lab().rollout.pull_deadline_seconds
    images: Any = order.images
    assert isinstance(images[0], FetchedImage)
