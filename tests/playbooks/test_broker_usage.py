"""How long each person has held and used each GPU: counted once, kept through restarts, and in nobody's way."""

import errno
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.playbooks.broker_world import GPUS, PEOPLE, Node, orders
from tests.playbooks.node_code import module_util

usages, files, states = (module_util(name) for name in ("lease.usage", "admin.usage_file", "lease.state"))
pytestmark = pytest.mark.usefixtures("engine")
HOUR = 3600
NOON = datetime(2027, 1, 31, 12, tzinfo=UTC)


class Clock:
    """A wall clock that goes with the clock of a node."""

    def __init__(self, node: Node) -> None:
        self.node, self.zero = node, NOON - timedelta(seconds=node.now)

    def __call__(self) -> datetime:
        return self.zero + timedelta(seconds=self.node.now)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(orders, "routes", list)
    made = Node(tmp_path)
    with_clock(made)
    return made


def with_clock(node: Node) -> None:
    node.keeper.usage = files.UsageFile(node.folder / "usage", Clock(node))


def rows(node: Node, since: str = "") -> list[tuple[str, str, int, int]]:
    found = node.keeper.usage.total(since)
    return [(row["person"], row["gpu"], row["held_s"], row["used_s"]) for row in found]


def kept(node: Node, month: str = "2027-01") -> Any:
    path = node.folder / f"usage/{month}.json"
    return json.loads(path.read_text()) if path.exists() else None


def test_a_gpu_that_is_held_is_counted_by_person_and_card(node: Node) -> None:
    node.ask("anna", "up", gpus=2)
    node.ask("bob", "up", gpus=1)
    node.after(HOUR)
    node.ask("bob", "down")
    node.after(HOUR)
    anna, bob = [("anna", gpu, 2 * HOUR, 0) for gpu in sorted(GPUS[:2])], ("bob", GPUS[2], HOUR, 0)
    assert rows(node) == [*anna, bob]


def test_use_is_counted_where_a_look_has_found_it(node: Node) -> None:
    node.ask("anna", "up", gpus=2)
    keeper, ticks = node.keeper, module_util("lease.tick")
    for _ in range(10):
        node.now += 60
        cards = dict.fromkeys(GPUS, states.Card("free"))
        keeper.tick(ticks.Seen(cards, frozenset(node.running), {}, {}, frozenset(), frozenset({GPUS[0], GPUS[2]})))
    assert rows(node) == sorted([("anna", GPUS[0], 600, 600), ("anna", GPUS[1], 600, 0)])


def test_a_day_has_a_row_of_its_own_and_a_month_a_file(node: Node) -> None:
    node.ask("anna", "up", gpus=1, hours=24)
    node.after(20 * HOUR)
    found = kept(node)
    assert (found["schema"], found["month"]) == ("provisioner/usage/1", "2027-01")
    assert [(row["day"], row["held_s"]) for row in found["rows"]] == [("2027-01-31", 12 * HOUR)]
    assert {row["day"] for row in kept(node, "2027-02")["rows"]} == {"2027-02-01"}
    assert rows(node, "2027-02-01") == [("anna", GPUS[0], 8 * HOUR, 0)]
    assert rows(node, "2027-01-31") == [("anna", GPUS[0], 20 * HOUR, 0)]
    assert rows(node, "2027-02-02") == []


def test_the_file_is_written_at_most_once_in_five_minutes_and_at_the_end_of_a_lease(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    real = files.write_atomic

    def write(path: Path, text: str) -> None:
        written.append(path)
        real(path, text)

    monkeypatch.setattr(files, "write_atomic", write)
    node.ask("anna", "up", gpus=1)
    node.after(HOUR)
    assert len(written) == 12
    node.after(120)
    node.ask("anna", "down")
    assert kept(node)["rows"][0]["held_s"] == HOUR + 120


def test_a_restart_goes_on_where_the_last_broker_ended(node: Node) -> None:
    node.ask("anna", "up", gpus=1)
    node.after(HOUR)
    node.keeper.usage.write(node.now, is_end=True)
    node.now += 600  # without a broker; the lease is held all the same
    node.start()
    with_clock(node)
    node.now += 60
    node.look()
    assert rows(node) == [("anna", GPUS[0], HOUR + 660, 0)]


def test_time_while_the_node_is_off_is_not_counted(node: Node) -> None:
    node.ask("anna", "up", gpus=1)
    node.after(HOUR)
    node.boot, node.now = "b2", 50.0
    node.look()
    node.now += 60
    node.look()
    assert rows(node) == [("anna", GPUS[0], HOUR + 60, 0)]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"rows": [{"day": 1}]}', '{"rows": [{"uid": "x"}]}'])
def test_a_damaged_file_is_kept_aside_and_counting_goes_on(node: Node, damage: str) -> None:
    (node.folder / "usage").mkdir()
    (node.folder / "usage/2027-01.json").write_text(damage)
    node.ask("anna", "up", gpus=1)
    node.after(600)
    assert (node.folder / "usage/2027-01.json.damaged").read_text() == damage
    assert rows(node) == [("anna", GPUS[0], 600, 0)]


def test_a_full_disk_stops_nothing_and_loses_no_time(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    real = files.write_atomic

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files, "write_atomic", full)
    node.ask("anna", "up", gpus=1)
    node.after(HOUR)
    assert (kept(node), rows(node)) == (None, [("anna", GPUS[0], HOUR, 0)])
    monkeypatch.setattr(files, "write_atomic", real)
    node.ask("anna", "down")
    assert node.running == set()
    assert kept(node)["rows"][0]["held_s"] == HOUR


def test_root_gets_the_sums_since_a_day(node: Node) -> None:
    node.ask("anna", "up", gpus=1)
    node.after(600)
    later = node.ask("root", "usage", since="2027-01-01")
    while not later.child.read():
        pass
    assert (later.answer, later.field) == ({"state": "ok", "lab": "ml"}, "rows")
    (row,) = later.child.result()
    assert row == {
        "day": "",
        "uid": PEOPLE["anna"],
        "gpu": GPUS[0],
        "person": "anna",
        "held_s": 600,
        "used_s": 0,
    }


# --- laws

TIMES = st.datetimes(datetime(2026, 1, 1), datetime(2030, 1, 1)).map(lambda found: found.replace(tzinfo=UTC))  # noqa: DTZ001
SECONDS = st.floats(0, 40 * 86400).map(round)


@given(TIMES, SECONDS)
def test_the_seconds_of_the_days_are_those_of_the_whole_time(end: datetime, seconds: int) -> None:
    found = list(usages.by_day(end, seconds))
    assert sum(part for _, part in found) == pytest.approx(seconds, abs=1e-3)
    days = [day for day, _ in found]
    assert days == sorted(set(days))
    assert all(0 < part <= 86400 for _, part in found)


@given(st.lists(st.tuples(st.integers(0, 300), st.sets(st.sampled_from(["g1", "g2", "g3"]))), max_size=20))
def test_never_more_is_used_than_is_held_and_rows_are_bounded(steps: list[tuple[int, set[str]]]) -> None:
    terms = states.Terms(86400.0, 0.0, 600.0)
    leases = {
        "a": states.Lease("a", "ml_a", 1, ("g1",), "active", 1e6, terms),
        "b": states.Lease("b", "ml_a", 1, ("g1", "g2"), "pending", 1e6, terms),
    }
    state, end = states.LeaseState(leases=leases), NOON
    found: dict[Any, Any] = {}
    for seconds, used in steps:
        end += timedelta(seconds=seconds)
        found = usages.count(found, state, {"ml_a": "a"}, usages.by_day(end, seconds))
        found = usages.count_use(found, state, used, end.date().isoformat(), seconds)
    assert all(0 <= row.used_s <= row.held_s for row in found.values())
    assert {(row.uid, row.gpu) for row in found.values()} <= {(1, "g1"), (1, "g2")}
    total = sum(seconds for seconds, _ in steps)
    assert all(row["held_s"] == pytest.approx(total, abs=1) for row in usages.total(found.values(), ""))
