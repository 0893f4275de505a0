"""SIGKILL of the broker at every boundary: the next one finds leases, orders and jobs, and nothing is given twice.

The jobs of seats go on when the broker is killed. A boundary is each file that it writes or removes, and the start of a
program.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.broker_world import DOCUMENT, GPUS, PEOPLE, Node, orders
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.world import Killed

stores, seats, keepers = module_util("broker.store"), module_util("seat.seat"), module_util("broker.keeper")
pytestmark = pytest.mark.usefixtures("engine")
BOUNDARIES = [
    (stores.Store, "write_leases"),
    (stores.Store, "write_order"),
    (stores.Store, "forget_order"),
    (stores.Store, "audit"),
    (seats.Seat, "write_intent"),
    (Node, "_launch"),
]


class Killer:
    """Ends the process before or after the boundary of a number; before the first one it only counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.passed = -1, 0
        for kind, name in BOUNDARIES:
            monkeypatch.setattr(kind, name, self._marked(getattr(kind, name)))

    def _marked(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def marked(*arguments: Any, **words: Any) -> Any:
            self._reach()
            found = inner(*arguments, **words)
            self._reach()
            return found

        return marked

    def _reach(self) -> None:
        self.passed += 1
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> Killer:
    monkeypatch.setattr(orders, "routes", list)
    return Killer(monkeypatch)


def _new_version(node: Node) -> None:
    new = json.loads(json.dumps(DOCUMENT))
    new["files"]["gpu_check.py"] = ["print(2)\n"]
    node.configure(environments={"default": node.publish(new)})


def up(node: Node) -> None:
    node.ask("anna", "up", gpus=1)


def more_gpus(node: Node) -> None:
    node.ask("anna", "up", gpus=2, restart=True)


def upgrade(node: Node) -> None:
    node.ask("anna", "upgrade", now=True)


def down(node: Node) -> None:
    node.ask("anna", "down")


def expiry(node: Node) -> None:
    node.after(4800, step=600)


def crash(node: Node) -> None:
    node.running.discard("ml_anna")
    node.look()


ACTS = {"up": up, "more_gpus": more_gpus, "upgrade": upgrade, "down": down, "expiry": expiry, "crash": crash}
ENDS = {"up": 1, "more_gpus": 2, "upgrade": 1, "down": 0, "expiry": 0, "crash": 1}


def a_node(root: Path, act: str, ends: dict[str, str]) -> Node:
    node = Node(root)
    node.ask("bob", "up", gpus=1)
    if act != "up":
        node.ask("anna", "up", gpus=1, hours=1)
    if act == "upgrade":
        _new_version(node)
    node.ends = ends
    return node


def kills(killer: Killer, tmp_path: Path, act: str, ends: dict[str, str]) -> Iterator[tuple[int, Node]]:
    """Yield a node for each boundary of an act, with a broker that was killed there and started again."""
    node, begun = a_node(tmp_path / "whole", act, ends), killer.passed
    ACTS[act](node)
    total = killer.passed - begun
    assert total > 2
    for number in range(1, total + 1):
        node = a_node(tmp_path / str(number), act, ends)
        killer.left = number
        with pytest.raises(Killed):
            ACTS[act](node)
        killer.left = -1
        node.start()
        yield number, node


def check_consistent(node: Node) -> None:
    """A GPU has one seat, a seat that runs has a lease of its GPUs, and there is no job and no order left."""
    leases = list(node.keeper.state.leases.values())
    held = [gpu for lease in leases for gpu in lease.gpus]
    assert len(held) == len(set(held))
    for name in node.running:
        (lease,) = node.keeper.state.of_seat(name)
        assert list(lease.gpus) == node.order(name)["seat"]["gpus"]
    assert {lease.seat for lease in leases} == node.running
    assert not node.keeper.state.jobs
    assert not list((node.folder / "orders").iterdir())
    assert "ml_bob" in node.running


@pytest.mark.parametrize("act", sorted(ACTS))
def test_a_broker_that_is_killed_at_any_boundary_is_taken_over_by_the_next_one(
    killer: Killer, tmp_path: Path, act: str
) -> None:
    for _, node in kills(killer, tmp_path, act, {}):
        node.after(240)
        check_consistent(node)
        if act in ("up", "more_gpus", "upgrade", "down"):
            ACTS[act](node)  # the person asks again
        node.after(60)
        check_consistent(node)
        gpus = [gpu for lease in node.keeper.state.of_person(PEOPLE["anna"]) for gpu in lease.gpus]
        if act != "expiry":
            assert len(gpus) == ENDS[act]
        else:
            node.after(4800, step=600)
            assert gpus == [] or not node.keeper.state.of_person(PEOPLE["anna"])


@pytest.mark.parametrize("ends", ["rolled_back", "needs_attention"])
def test_a_failed_start_and_a_kill_leave_no_gpu_leased(killer: Killer, tmp_path: Path, ends: str) -> None:
    for _, node in kills(killer, tmp_path, "up", {"up": ends}):
        node.after(240)
        check_consistent(node)
        assert [gpu for lease in node.keeper.state.leases.values() for gpu in lease.gpus] == [GPUS[0]]


def test_a_job_goes_on_while_there_is_no_broker(tmp_path: Path, killer: Killer) -> None:
    node = Node(tmp_path)
    node.holds = True
    node.ask("anna", "up")
    node.start()
    assert node.ask("anna", "status")["state"] == "starting"
    assert node.kinds() == ["up"]
    node.finish()
    assert node.ask("anna", "status")["state"] == "running"
    assert killer.passed


def test_a_boot_in_the_middle_of_a_start_starts_the_seat_again(
    tmp_path: Path, killer: Killer, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path)
    node.holds = True
    node.ask("anna", "up", hours=2)
    monkeypatch.setattr(module_util("jobs.jobfile"), "boot_id", lambda: "b2")
    node.boot, node.now, node.holds = "b2", 30.0, False
    node.start()
    assert node.kinds() == ["up", "up"]
    status = node.ask("anna", "status")
    assert (status["state"], status["seat"]["left_s"]) == ("running", 7200)
    assert killer.passed


def test_a_boot_with_a_seat_starts_it_again_with_the_time_that_was_left(tmp_path: Path, killer: Killer) -> None:
    node = Node(tmp_path)
    node.ask("anna", "up", hours=2)
    node.after(1800)
    node.boot, node.now = "b2", 30.0
    node.running.clear()
    node.start()
    assert node.kinds() == ["up", "resume"]
    assert node.ask("anna", "status")["seat"]["left_s"] == 5400
    assert killer.passed


@pytest.mark.parametrize("damage", ["", "{", '{"schema": "provisioner/leases/9"}', None])
def test_seats_that_run_keep_their_gpus_when_the_file_of_leases_is_lost(
    tmp_path: Path, killer: Killer, damage: str | None
) -> None:
    node = Node(tmp_path)
    node.ask("anna", "up", gpus=2)
    path = node.folder / "leases.json"
    path.unlink()
    if damage is not None:
        path.write_text(damage)
    node.start()
    with pytest.raises(ProblemError):
        node.ask("bob", "up", gpus=2)
    status = node.ask("anna", "status")
    assert (status["state"], status["seat"]["gpus"], status["seat"]["left_s"]) == ("ending", list(GPUS[:2]), 3600)
    assert node.ask("anna", "renew", hours=8)["left_s"] == 8 * 3600
    assert (node.folder / "leases.json.damaged").exists() is (damage is not None)
    assert killer.passed


# --- a full disk


def test_a_start_is_refused_and_an_end_is_not_when_the_disk_is_full(
    tmp_path: Path, killer: Killer, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path)
    node.ask("anna", "up", gpus=2)
    disk = module_util("base.files").write_atomic

    def full(path: Path, *words: Any) -> None:
        if node.folder in (path.parent, path.parent.parent):
            raise OSError(28, "No space left on device", str(path))
        disk(path, *words)

    monkeypatch.setattr(stores, "write_atomic", full)
    with pytest.raises(ProblemError, match="No space left"):
        node.ask("bob", "up")
    assert not node.keeper.state.of_person(PEOPLE["bob"])
    node.ask("anna", "down")
    assert (node.running, node.keeper.state.leases) == (set(), {})
    assert killer.passed


def test_the_reserve_is_given_up_for_the_record_and_taken_again(
    tmp_path: Path, killer: Killer, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path)
    node.ask("anna", "up")
    reserve = node.folder / "reserve"
    assert reserve.stat().st_size == 8 << 20
    disk = module_util("base.files").write_atomic

    def nearly_full(*words: Any) -> None:
        if reserve.exists():
            raise OSError(28, "No space left on device")
        disk(*words)

    monkeypatch.setattr(stores, "write_atomic", nearly_full)
    with pytest.raises(ProblemError, match="No space left"):
        node.ask("bob", "up")
    node.keeper.tick()  # of a minute
    assert reserve.exists()
    node.ask("anna", "down")
    assert not reserve.exists()
    assert json.loads((node.folder / "leases.json").read_text())["leases"] == {}
    monkeypatch.undo()
    node.keeper.store.renew_reserve()
    assert reserve.exists()
    assert killer.passed


def test_a_disk_without_room_for_one_file_more_ends_no_broker(
    tmp_path: Path, killer: Killer, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path)
    node.ask("anna", "up")
    reserve, open_file = node.folder / "reserve", os.open
    reserve.unlink()

    def full(path: str, *words: Any, **named: Any) -> int:
        if path == str(reserve):
            raise OSError(28, "No space left on device", path)
        return open_file(path, *words, **named)

    monkeypatch.setattr(os, "open", full)
    node.start()
    node.ask("anna", "down")
    assert (node.running, node.keeper.state.leases) == (set(), {})
    assert killer.passed


def test_a_program_that_does_not_begin_frees_the_gpus(tmp_path: Path, killer: Killer) -> None:
    node = Node(tmp_path)
    node.exits = 1
    node.ask("anna", "up", gpus=2)
    assert node.ask("anna", "status")["ended"]["problems"][0]["code"] == "job_not_started"
    assert not node.keeper.state.leases
    assert killer.passed


def test_a_seat_that_was_stopped_without_a_job_file_is_stopped(tmp_path: Path, killer: Killer) -> None:
    node = Node(tmp_path)
    node.ask("anna", "up", gpus=2)
    node.exits = keepers.STOPPED
    node.ask("anna", "down")
    assert not node.keeper.state.leases
    assert killer.passed


def test_time_is_that_of_a_clock_that_cannot_be_set() -> None:
    before, moment, after = (time.clock_gettime(time.CLOCK_BOOTTIME), keepers.read_moment(), time.time())
    assert before <= moment.boottime <= time.clock_gettime(time.CLOCK_BOOTTIME) < after
    assert moment.boot_id == module_util("base.host").boot_id()
