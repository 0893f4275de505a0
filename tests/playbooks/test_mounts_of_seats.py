"""Seats with mounts over time: staged, switched, rolled back, started after a boot, and reported."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine, a_container, add_containers
from tests.playbooks.node_code import ProblemError, module_util, problem
from tests.playbooks.orders import REFERENCE, an_order, with_seat
from tests.playbooks.test_stage import docker, stage
from tests.playbooks.world import World, a_problem

checks, records, node_recovery, seats, facts, journals = (
    module_util(name)
    for name in ("mount.check", "mount.record", "transaction.recover_node", "seat.seat", "seat.facts", "seat.journal")
)
__all__ = ["docker"]
MOUNT = {"source": "/data", "target": "/data", "read_only": True, "mounted": True, "autofs": False}

pytestmark = pytest.mark.usefixtures("idle", "_short_waits")


def with_mounts(order: dict[str, Any], *mounts: dict[str, Any]) -> dict[str, Any]:
    return order | {"files": {**order["files"], checks.FILE: json.dumps(mounts)}}


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The code of what is wrong with each mount, nothing if it is empty. A test may change it."""
    codes: list[str] = []

    def find(mounts: Any, *_: Any) -> list[Any]:
        return [a_problem(codes[0]) if codes else None for _ in mounts]

    for module in (checks, facts):
        monkeypatch.setattr(module, "find_faults", find)
    return codes


@pytest.fixture
def world(tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, found: list[str]) -> World:
    """A seat of two generations with a mount, the first of which runs."""
    assert found == []
    engine.images[REFERENCE] = {"RootFS": {"Layers": []}}
    before, after = an_order(tmp_path, files={"compose.yaml": "old"}), an_order(tmp_path)
    made = World(tmp_path, 1, (with_mounts(after, MOUNT), with_mounts(before, MOUNT))).patch_node_code(monkeypatch)
    monkeypatch.setattr(node_recovery, "Compose", lambda *_: made.compose)
    made.journal().append("committed", generation=1)
    return made


def recovered(world: World) -> dict[str, Any]:
    order = {"run": "boot-1", "state_root": world.order["state_root"]}
    record: dict[str, Any] = node_recovery.recover_seats(order, world.report)
    return record


def booted(world: World) -> World:
    """Stop the containers, as a boot does with those that the engine does not start."""
    world.compose.running = 0
    world.compose.containers = lambda: [{"State": "exited"}] if not world.compose.running else [{"State": "running"}]  # type: ignore[method-assign]
    return world


@pytest.mark.usefixtures("docker")
def test_a_seat_is_not_staged_without_its_mount(tmp_path: Path, found: list[str]) -> None:
    order = with_mounts(an_order(tmp_path), MOUNT)
    found.append("mount_hangs")
    with pytest.raises(ProblemError, match="mount_hangs"):
        stage(order)
    assert seats.seat_of(order).numbers() == []
    found.clear()
    assert stage(order)["state"] == "staged"


@pytest.mark.parametrize("act", ["switch", "roll_back"])
def test_nothing_is_stopped_where_a_mount_has_gone_since_it_was_staged(
    world: World, found: list[str], act: str
) -> None:
    if act == "roll_back":
        world.switch()
    running, calls = world.compose.running, list(world.compose.calls)
    found.append("not_mounted")
    with pytest.raises(ProblemError, match="not_mounted"):
        getattr(world, act)()
    assert (world.compose.running, world.compose.calls) == (running, calls)


def test_an_undo_starts_no_seat_without_its_mount(
    world: World, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that goes down during a switch: an empty folder would look like the data, and could be written to."""
    monkeypatch.setattr(module_util("transaction.undo"), "MOUNT_SECONDS", 0)
    world.failing_checks.add(2)
    ups = world.compose.up

    def up(number: int) -> None:
        found[:] = ["mount_hangs"]
        ups(number)

    monkeypatch.setattr(world.compose, "up", up)
    record = world.switch()
    assert (record["state"], [one["code"] for one in record["problems"]]) == (
        "needs_attention",
        ["jupyter_fails", "mount_hangs"],
    )
    assert "up 1" not in world.compose.calls


# --- after a boot


def test_a_seat_is_started_after_a_boot_once_its_mount_is_there(world: World, found: list[str]) -> None:
    found.append("not_mounted")
    texts: list[str] = []

    def report(text: str, **_: Any) -> None:
        texts.append(text)
        if len(texts) > 1:
            found.clear()

    world.report = report  # type: ignore[method-assign]
    record = recovered(booted(world))
    assert (record["state"], world.compose.running) == ("unchanged", 1)
    assert record["checks"] == {"demo-student": "its mounts are there, and it was started; generation 1"}
    assert texts == ["waiting for a mount: not_mounted"] * 2
    assert records.noted(world.seat.folder) == []


def test_why_a_seat_was_not_started_is_recorded_until_it_runs(
    world: World, found: list[str], monkeypatch: pytest.MonkeyPatch, engine: FakeEngine
) -> None:
    monkeypatch.setattr(node_recovery, "MOUNT_SECONDS", 0)
    found.append("mount_missing")
    record = recovered(booted(world))
    assert (record["state"], world.compose.running) == ("failed", 0)
    assert [one["code"] for one in record["problems"]] == ["mount_missing"]
    found.clear()
    add_containers(engine, *(a_container(service, None, Status="exited") for service in ("jupyter", "ssh")))
    assert codes_of(world) == ["mount_missing"]
    monkeypatch.setattr(records, "boot_id", lambda: "another boot")
    assert codes_of(world) == []


def codes_of(world: World) -> list[str]:
    (fact,) = facts.seat_facts(world.order["state_root"])
    return [one["code"] for one in fact["drift"] if one["code"].startswith(("mount", "not_mounted"))]


@pytest.mark.parametrize("why", ["wanted down", "stopped", "removed", "runs", "no mount", "not mounted", "broker"])
def test_no_other_seat_is_started_after_a_boot(world: World, tmp_path: Path, why: str) -> None:
    booted(world)
    if why == "wanted down":
        world.seat.write_intent("down", "li")
    elif why == "stopped":
        world.journal().append("stopped")
    elif why == "removed":
        world.compose.containers = list  # type: ignore[method-assign]
    elif why == "runs":
        world.compose.running = 1
    else:
        order = (
            an_order(tmp_path) if why == "no mount" else with_mounts(an_order(tmp_path), {**MOUNT, "mounted": False})
        )
        if why == "broker":
            order = with_seat(with_mounts(an_order(tmp_path), MOUNT), kind="self_service")
        world.seat.write(1, order, {})
    record = recovered(world)
    assert record["checks"] == {"demo-student": "no unfinished switch; generation 1"}
    assert world.compose.calls == []


def test_seats_without_mounts_are_recovered_first_and_the_wait_is_one_for_all(
    world: World, tmp_path: Path, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_recovery, "MOUNT_SECONDS", 0.3)
    monkeypatch.setattr(checks, "PAUSE", 0.02)
    for name in ("aaa", "zzz"):
        seat = seats.seat_of(with_seat(an_order(tmp_path), name=name))
        seat.make_folders()
        order = with_seat(an_order(tmp_path), name=name)
        seat.write(1, with_mounts(order, MOUNT) if name == "aaa" else order, {})
        seat.commit(1)
    found.append("mount_hangs")
    began = time.monotonic()
    record = recovered(booted(world))
    assert time.monotonic() - began < 2
    assert list(record["checks"]) == ["zzz", "aaa", "demo-student"]
    assert len(record["problems"]) == 2


def test_an_open_switch_waits_for_the_mount_before_it_is_undone(
    world: World, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_recovery, "MOUNT_SECONDS", 0)
    world.journal("r2").append("switching", to=2, back=1)
    found.append("mount_hangs")
    assert recovered(booted(world))["state"] == "failed"
    assert world.journal().open_switch() is not None
    found.clear()
    assert recovered(world)["state"] == "rolled_back"
    assert world.compose.running == 1


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"boot": "x"}', "\x00"])
def test_a_damaged_record_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / records.FILE).write_text(text)
    assert records.noted(tmp_path) == []
    records.note(tmp_path, None)
    records.note(tmp_path, None)
    assert list(tmp_path.iterdir()) == []


# --- facts


@pytest.mark.parametrize("number", [1, 40])
def test_facts_name_the_mount_of_each_seat_and_look_at_it_once(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    looked: list[int] = []

    def find(mounts: Any, account: Any, seconds: float) -> list[Any]:
        looked.append(len(list(mounts)))
        assert (account, seconds < 10) == (None, True)
        return [a_problem("mount_hangs")]

    monkeypatch.setattr(facts, "find_faults", find)
    for index in range(number):
        order = with_seat(with_mounts(an_order(tmp_path), MOUNT), name=f"s{index}")
        seat = seats.seat_of(order)
        seat.make_folders()
        seat.write(1, order, {})
        seat.commit(1)
    assert engine.containers == []
    found = facts.seat_facts(str(tmp_path / "state"))
    assert [fact["drift"][0]["code"] for fact in found] == ["mount_hangs"] * number
    assert looked == [1]


def test_a_problem_of_a_mount_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ProblemError) as caught:
        checks.check_mounts(with_mounts(an_order(tmp_path), {**MOUNT, "source": "/no/such", "mounted": False}))
    assert problem(caught) == {
        "code": "mount_missing",
        "what": "/no/such: No such file or directory (/no)",
        "why": checks.WHY,
        "fix": checks.FIXES["mount_missing"],
    }
    assert set(checks.FIXES) == set(checks.CODES)


@pytest.mark.parametrize("kind", ["", "self_service"])
def test_a_person_is_sent_to_the_admin(tmp_path: Path, kind: str) -> None:
    order = with_seat(with_mounts(an_order(tmp_path), {**MOUNT, "source": "/no/such"}), kind=kind)
    with pytest.raises(ProblemError) as caught:
        checks.check_mounts(order)
    assert problem(caught)["fix"].startswith("ask the admin of the lab: ") == bool(kind)
