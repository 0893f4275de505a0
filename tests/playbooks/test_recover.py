"""A switch that a kill or a power cut left open is ended once, and a failed undo is not retried for ever."""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.fake_nvml import a_process
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import REFERENCE, an_order, with_seat
from tests.playbooks.world import FakeCompose, Killed, World, kill_at

node_recovery, recovery, removals, seats, journals, files = (
    module_util(name)
    for name in (
        "transaction.recover_node",
        "transaction.recover",
        "transaction.remove",
        "seat.seat",
        "seat.journal",
        "jobs.jobfile",
    )
)

pytestmark = pytest.mark.usefixtures("idle")


@pytest.fixture
def world(tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> World:
    """A seat whose switch from generation 1 to 2 was killed while it was verified."""
    engine.images[REFERENCE] = {"RootFS": {"Layers": []}}
    made = World(tmp_path, 1).patch_node_code(monkeypatch)
    monkeypatch.setattr(node_recovery, "Compose", lambda *_: made.compose)
    monkeypatch.setattr(removals, "Compose", lambda *_: made.compose)
    with pytest.raises(Killed):
        made.transact(kill_at(made.journal(), "verifying", "after"))
    return made


def recovered(world: World, **over: Any) -> dict[str, Any]:
    order = {"run": "r9", "state_root": world.order["state_root"], **over}
    record: dict[str, Any] = node_recovery.recover_seats(order, world.report)
    return record


def test_recovery_undoes_an_open_switch_and_a_second_one_does_nothing(world: World) -> None:
    assert recovered(world) == {
        "state": "rolled_back",
        "generation": 1,
        "checks": {"demo-student": "rolled_back; generation 1"},
        "problems": [],
    }
    assert (world.seat.current(), world.compose.running) == (1, 1)
    calls, states = list(world.compose.calls), world.states
    record = recovered(world)
    assert (record["state"], record["checks"]) == (
        "unchanged",
        {"demo-student": "no unfinished switch; generation 1"},
    )
    assert (world.compose.calls, world.states) == (calls, states)


def test_recovery_keeps_a_committed_switch(world: World) -> None:
    world.seat.commit(2)
    assert recovered(world)["state"] == "committed"
    assert world.states[-1] == "committed"


def test_recovery_skips_a_seat_with_a_running_job(world: World) -> None:
    lock = os.open(str(world.seat.folder / "lock"), os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = recovered(world)
    finally:
        os.close(lock)
    assert (record["state"], record["checks"]) == ("unknown", {"demo-student": "a job is running; generation 1"})
    assert world.states == ["switching", "verifying"]


def test_the_state_of_a_node_is_the_worst_of_its_seats(world: World, tmp_path: Path) -> None:
    other = seats.seat_of(with_seat(an_order(tmp_path), name="demo-other"))
    other.make_folders()
    record = recovered(world)
    assert (record["state"], record["generation"]) == ("rolled_back", 0)
    assert record["checks"]["demo-other"] == "no unfinished switch; generation 0"


def _journal_unreadable(seat: Any) -> None:
    (seat.folder / "journal.jsonl").mkdir()


def _current_unreadable(seat: Any) -> None:
    (seat.folder / "current").mkdir()


def _order_unreadable(seat: Any) -> None:
    seat.write(1, an_order(seat.folder), {})
    (seat.generation(1) / "order.json").write_text("[]")
    seat.commit(1)
    journals.Journal(seat.folder, "r1").append("switching", to=2, back=1)


def _lock_unopenable(seat: Any) -> None:
    (seat.folder / "lock").mkdir()


@pytest.mark.parametrize("damage", [_journal_unreadable, _current_unreadable, _order_unreadable, _lock_unopenable])
@pytest.mark.parametrize("name", ["aaa", "zzz"])
def test_a_damaged_seat_does_not_stop_the_recovery_of_the_others(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, damage: Callable[[Any], None]
) -> None:
    def compose(seat: Any, *_: Any) -> Any:
        return world.compose if seat.name == "demo-student" else FakeCompose(seat, 2)

    monkeypatch.setattr(node_recovery, "Compose", compose)
    (tmp_path / "state/seats/notes").write_text("a file of somebody else")
    broken = seats.seat_of(with_seat(an_order(tmp_path), name=name))
    broken.make_folders()
    damage(broken)
    record = recovered(world)
    assert record["checks"]["demo-student"] == "rolled_back; generation 1"
    assert (record["state"], set(record["checks"])) == ("failed", {"demo-student", name})
    assert len(record["problems"]) == 1
    assert (world.seat.current(), world.compose.running) == (1, 1)


def test_a_switch_that_the_broker_has_begun_is_left_to_it(world: World) -> None:
    """The lease of the seat may be over, and its GPUs those of somebody else."""
    path = world.seat.generation(2) / "order.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "by": "broker"}))
    calls, states = list(world.compose.calls), world.states
    record = recovered(world)
    assert (record["state"], record["checks"]) == (
        "unchanged",
        {"demo-student": "the broker ends its switch; generation 1"},
    )
    assert (world.compose.calls, world.states) == (calls, states)


def test_a_stray_file_among_the_seats_does_not_stop_recovery_at_boot(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    (world.seat.folder.parent / "notes").write_text("a file of somebody else")
    assert node_recovery.recover_at_boot(world.order["state_root"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["state"] == "rolled_back"


def test_recovery_of_a_node_without_seats_changes_nothing(tmp_path: Path) -> None:
    record = node_recovery.recover_seats({"run": "r1", "state_root": str(tmp_path)}, lambda *_, **__: None)
    assert (record["state"], record["checks"]) == ("unchanged", {})


def test_recovery_is_deferred_if_the_gpus_are_in_use(
    world: World, idle: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "CHECK_SECONDS", 0)
    idle[0]["processes"] = [a_process(4242)]
    record = recovered(world)
    assert (record["state"], record["problems"][0]["code"]) == ("deferred", "busy")
    assert world.states == ["switching", "verifying"]


def test_a_failed_undo_is_not_retried_automatically(world: World) -> None:
    world.compose.broken = {1, 2}
    record = recovered(world)
    assert (record["state"], record["problems"][0]["code"]) == ("needs_attention", "needs_attention")
    calls = list(world.compose.calls)
    world.compose.broken = set()
    world.compose.running = 0
    assert recovered(world)["state"] == "needs_attention"
    with pytest.raises(
        recovery.NeedsAttentionError, match=r"the rollback failed at .*, run r9: start_failed"
    ) as caught:
        world.switch("r10")
    assert "`provision rollback` or `provision remove`" in caught.value.problem["fix"]
    assert world.compose.calls == calls


def test_recovery_stops_after_three_interrupted_attempts(world: World) -> None:
    for attempt in range(recovery.ATTEMPTS):
        with pytest.raises(Killed):
            recovery.recover_seat(
                world.compose, kill_at(world.journal(f"b{attempt}"), "rolling_back", "after"), world.order, world.report
            )
    calls = list(world.compose.calls)
    record = recovered(world)
    assert record["state"] == "needs_attention"
    assert "3 attempts to undo the switch of run r1 were interrupted" in record["problems"][0]["what"]
    assert world.states[-1] == "needs_attention"
    recovered(world)
    assert world.compose.calls == calls


@pytest.fixture
def stuck(world: World) -> World:
    world.compose.broken = {1, 2}
    assert recovered(world)["state"] == "needs_attention"
    world.compose.broken = set()
    world.compose.running = 0
    return world


def test_a_rollback_resolves_needs_attention(stuck: World) -> None:
    assert stuck.roll_back(to=2)["state"] == "committed"
    assert recovered(stuck)["state"] == "unchanged"


@pytest.mark.parametrize("act", [removals.remove, removals.stop])
@pytest.mark.usefixtures("ran")
def test_stop_and_remove_resolve_needs_attention(stuck: World, act: Any) -> None:
    stuck.compose.running = 2
    act({**stuck.order, "run": "r11"}, stuck, 0)
    assert recovered(stuck)["state"] == "unchanged"


def test_a_seat_repaired_by_hand_no_longer_needs_attention(stuck: World) -> None:
    stuck.compose.running = 1
    assert recovered(stuck)["state"] == "unchanged"


def test_a_staged_line_does_not_hide_needs_attention(stuck: World) -> None:
    stuck.journal().append("staged", generation=3)
    with pytest.raises(ProblemError, match="could not be restored"):
        stuck.switch("r12")


@pytest.mark.parametrize(("broken", "status"), [(set(), 0), ({1, 2}, 1)])
def test_recover_at_boot_prints_the_record_and_returns_a_status(
    world: World, capsys: pytest.CaptureFixture[str], broken: set[int], status: int
) -> None:
    world.compose.broken = broken
    assert node_recovery.recover_at_boot(world.order["state_root"]) == status
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["state"] == ("needs_attention" if broken else "rolled_back")


def test_recover_at_boot_waits_for_the_engine_up_to_a_limit(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(node_recovery, "BOOT_SECONDS", 0)
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such.sock")
    assert node_recovery.recover_at_boot(world.order["state_root"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"][0]["code"] == "no_engine"
