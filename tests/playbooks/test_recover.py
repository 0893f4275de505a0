"""What a kill or a power cut left open is ended once, by whoever comes first; in circles it goes with nobody."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.fake_nvml import a_process
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import REFERENCE, an_order, with_seat
from tests.playbooks.world import Killed, World, killing

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
    made = World(tmp_path, 1).serve(monkeypatch)
    monkeypatch.setattr(node_recovery, "Compose", lambda *_: made.compose)
    monkeypatch.setattr(removals, "Compose", lambda *_: made.compose)
    with pytest.raises(Killed):
        made.transact(killing(made.journal(), "verifying", "after"))
    return made


def recovered(world: World, **over: Any) -> dict[str, Any]:
    order = {"run": "r9", "state_root": world.order["state_root"], **over}
    record: dict[str, Any] = node_recovery.recover_seats(order, world.report)
    return record


def test_what_is_open_is_ended_and_told_and_then_there_is_nothing_to_do(world: World) -> None:
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


def test_a_switch_that_was_committed_stays(world: World) -> None:
    world.seat.commit(2)
    assert recovered(world)["state"] == "committed"
    assert world.states[-1] == "committed"


def test_a_seat_that_a_job_holds_is_left_to_it(world: World) -> None:
    lock = os.open(str(world.seat.folder / "lock"), os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = recovered(world)
    finally:
        os.close(lock)
    assert (record["state"], record["checks"]) == ("unknown", {"demo-student": "a job is running; generation 1"})
    assert world.states == ["switching", "verifying"]


def test_a_node_stands_as_the_worst_of_its_seats(world: World, tmp_path: Path) -> None:
    other = seats.seat_of(with_seat(an_order(tmp_path), name="demo-other"))
    other.make_folders()
    record = recovered(world)
    assert (record["state"], record["generation"]) == ("rolled_back", 0)
    assert record["checks"]["demo-other"] == "no unfinished switch; generation 0"


def test_a_node_without_seats_has_nothing_to_end(tmp_path: Path) -> None:
    record = node_recovery.recover_seats({"run": "r1", "state_root": str(tmp_path)}, lambda *_, **__: None)
    assert (record["state"], record["checks"]) == ("unchanged", {})


def test_work_that_has_begun_since_is_not_ended(world: World, idle: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "CHECK_SECONDS", 0)
    idle[0]["processes"] = [a_process(4242)]
    record = recovered(world)
    assert (record["state"], record["problems"][0]["code"]) == ("deferred", "busy")
    assert world.states == ["switching", "verifying"]


def test_where_going_back_fails_no_program_tries_again_by_itself(world: World) -> None:
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


def test_three_attempts_that_were_cut_off_are_the_last(world: World) -> None:
    for attempt in range(recovery.ATTEMPTS):
        with pytest.raises(Killed):
            recovery.recover_seat(
                world.compose, killing(world.journal(f"b{attempt}"), "rolling_back", "after"), world.order, world.report
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


def test_a_person_gets_it_going_again_by_going_back(stuck: World) -> None:
    assert stuck.roll_back(to=2)["state"] == "committed"
    assert recovered(stuck)["state"] == "unchanged"


@pytest.mark.parametrize("act", [removals.remove, removals.stop])
@pytest.mark.usefixtures("ran")
def test_a_person_gets_it_going_again_by_taking_it_down(stuck: World, act: Any) -> None:
    stuck.compose.running = 2
    act({**stuck.order, "run": "r11"}, stuck, 0)
    assert recovered(stuck)["state"] == "unchanged"


def test_a_seat_that_was_mended_by_hand_is_no_case_any_more(stuck: World) -> None:
    stuck.compose.running = 1
    assert recovered(stuck)["state"] == "unchanged"


def test_what_is_only_noted_does_not_hide_that_a_person_is_needed(stuck: World) -> None:
    stuck.journal().append("staged", generation=3)
    with pytest.raises(ProblemError, match="could not be restored"):
        stuck.switch("r12")


@pytest.mark.parametrize(("broken", "status"), [(set(), 0), ({1, 2}, 1)])
def test_at_boot_the_system_is_told_how_it_ended(
    world: World, capsys: pytest.CaptureFixture[str], broken: set[int], status: int
) -> None:
    world.compose.broken = broken
    assert node_recovery.recover_at_boot(world.order["state_root"]) == status
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["state"] == ("needs_attention" if broken else "rolled_back")


def test_at_boot_an_engine_is_waited_for_but_not_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(node_recovery, "BOOT_SECONDS", 0)
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such.sock")
    assert node_recovery.recover_at_boot(world.order["state_root"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"][0]["code"] == "no_engine"
