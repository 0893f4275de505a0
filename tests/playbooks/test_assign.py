"""The public keys of a seat are replaced while it runs, and never by a run that may no longer change it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import NoJob, an_order, with_seat
from tests.playbooks.world import World

assigning, expectations, claims, fill = (
    module_util(name) for name in ("transaction.assign", "transaction.expected", "jobs.claims", "base.fill")
)
OLD, NEW = "ssh-ed25519 AAAA old", "ssh-ed25519 AAAA new"
DOCUMENT = {"files": {"authorized_keys": ["", "authorized_keys", ""], "compose.yaml": ["services: {}\n"]}}

pytestmark = pytest.mark.usefixtures("idle", "engine")


def with_keys(root: Path, *lines: str, **over: Any) -> dict[str, Any]:
    order = with_seat(an_order(root, document=DOCUMENT, **over), authorized_keys=list(lines), shared=False)
    return {**order, "files": {**order["files"], **fill.fill(DOCUMENT, order["seat"])}}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A seat that runs generation 1, which admits OLD."""
    made = World(tmp_path, 0).patch_node_code(monkeypatch)
    made.seat.write(1, with_keys(tmp_path, OLD, OLD, OLD), {})
    made.seat.delete_generation(2)
    made.seat.commit(1)
    made.compose.running = 1
    return made


def set_keys(world: World, *lines: str, **over: Any) -> dict[str, Any]:
    seat = {**world.order["seat"], "authorized_keys": list(lines), "shared": False}
    order = {"state_root": world.order["state_root"], "seat": seat, "run": "r9", "expects": 1}
    record: dict[str, Any] = assigning.assign({**order, **over}, NoJob(), 0)
    return record


@pytest.mark.parametrize("lines", [(NEW,), (), (OLD, NEW), (OLD,) * 50])
def test_the_file_that_is_mounted_gets_the_new_keys(tmp_path: Path, world: World, lines: tuple[str, ...]) -> None:
    path = world.seat.generation(1) / "authorized_keys"
    inode, calls = path.stat().st_ino, list(world.compose.calls)
    record = set_keys(world, *lines)
    assert (record["state"], record["generation"]) == ("committed", 1)
    assert path.read_text() == "".join(f"{line}\n" for line in lines)
    assert path.stat().st_ino == inode
    assert world.seat.order(1) == with_keys(tmp_path, *lines)
    assert (world.seat.numbers(), world.compose.calls) == ([1], calls)


@pytest.mark.parametrize("shared", [True, False])
def test_that_gpus_are_shared_is_recorded_and_nothing_restarts(world: World, shared: bool) -> None:
    calls, seat = list(world.compose.calls), {**world.seat.order(1)["seat"], "shared": shared}
    order = {"state_root": world.order["state_root"], "seat": seat, "run": "r9", "expects": 1}
    assert assigning.assign(order, NoJob(), 0)["state"] == "committed"
    assert world.seat.order(1)["seat"] == seat
    assert (world.seat.numbers(), world.compose.calls) == ([1], calls)


def test_the_same_keys_again_change_nothing(world: World) -> None:
    set_keys(world, NEW)
    before = world.seat.order(1)
    assert set_keys(world, NEW)["state"] == "committed"
    assert world.seat.order(1) == before


def test_a_stale_plan_and_a_run_that_was_replaced_change_no_keys(world: World) -> None:
    with pytest.raises(expectations.StalePlanError):
        set_keys(world, NEW, expects=7)
    claim = {"lab": "demo", "holder": "ann@one", "since": "2026-11-30T00:00:00Z", "verb": "rollout"}
    claims.take_claim(world.order["state_root"], {**claim, "run": "later", "fence": 5}, "")
    with pytest.raises(ProblemError, match="has taken over from run r9"):
        set_keys(world, NEW, claim={**claim, "run": "r9", "fence": 4})
    assert (world.seat.generation(1) / "authorized_keys").read_text() == f"{OLD}\n" * 3


def test_keys_that_were_half_written_are_a_difference_that_the_next_order_ends(world: World) -> None:
    path = world.seat.generation(1) / "authorized_keys"
    path.write_text(NEW[:9])  # a power cut
    assert world.seat.files(1)["authorized_keys"] != world.seat.order(1)["files"]["authorized_keys"]
    set_keys(world, NEW)
    assert path.read_text() == f"{NEW}\n" == json.loads((path.parent / "order.json").read_text())["files"][path.name]


def test_a_rollback_does_not_bring_back_keys_that_were_taken_away(tmp_path: Path, world: World) -> None:
    world.seat.write(2, with_keys(tmp_path, OLD), {})
    world.seat.commit(2)
    set_keys(world, NEW, expects=2)
    world.seat.inherit(1)
    assert world.seat.order(1) == with_keys(tmp_path, NEW)
    assert (world.seat.generation(1) / "authorized_keys").read_text() == f"{NEW}\n"
