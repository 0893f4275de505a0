"""Rollback: without the network, by the transaction of a switch, and only to a generation whose image is present."""

from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.fake_nvml import a_gpu, a_process
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import an_order, with_seat
from tests.playbooks.world import World

busy, expectations = module_util("seat.busy"), module_util("transaction.expected")
fill = module_util("base.fill")

pytestmark = pytest.mark.usefixtures("idle")
OLD, NEW = (f"registry.lab:5201/provisioner/lab@sha256:{letter * 64}" for letter in "12")


@pytest.fixture
def world(tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> World:
    """A seat that was switched from generation 1 to generation 2; they have different images."""
    engine.images |= {name: {"RootFS": {}} for name in (OLD, NEW)}
    made = World(tmp_path, 0).patch_node_code(monkeypatch)
    for number, name in ((1, OLD), (2, NEW)):
        image = made.order["image"] | {"reference": name}
        made.seat.write(number, made.order | {"image": image}, {})
    made.seat.commit(1)
    made.compose.running = 1
    assert made.switch("r1", image=made.order["image"] | {"reference": NEW})["state"] == "committed"
    return made


def test_rollback_goes_to_the_generation_before(world: World, engine: FakeEngine) -> None:
    record = world.roll_back()
    assert (record["state"], record["generation"], record["checks"]) == ("committed", 1, {"ssh": "ok"})
    assert record["access"]["ssh"] == "ssh -p 22000 student@127.0.0.22"
    assert (world.seat.current(), world.compose.running) == (1, 1)
    assert world.states[-3:] == ["switching", "verifying", "committed"]
    assert not any("/images/create" in request for request in engine.requests)


def test_rollback_can_go_to_a_newer_generation(world: World) -> None:
    world.roll_back()
    assert world.seat.numbers() == [1, 2]
    assert world.roll_back(to=2, run="forth")["generation"] == 2
    assert world.roll_back(to=2, run="again")["state"] == "unchanged"
    assert (world.seat.current(), world.compose.running) == (2, 2)


def test_a_rollout_after_a_rollback_reuses_the_staged_generation(world: World) -> None:
    world.roll_back()
    assert world.switch("r3", image=world.order["image"] | {"reference": NEW})["generation"] == 2


def test_a_repair_does_not_take_the_place_of_the_generation_to_go_back_to(world: World, engine: FakeEngine) -> None:
    engine.images[NEW] = {"RootFS": {}, "RepoTags": ["provisioner/keep:demo-student-g3"]}
    world.seat.write(3, world.order | {"image": world.order["image"] | {"reference": NEW}}, {})
    assert world.switch("repair", image=world.order["image"] | {"reference": NEW})["generation"] == 3
    assert world.seat.numbers() == [1, 3]
    assert world.roll_back()["generation"] == 1


@pytest.mark.parametrize("to", [0, 1])
def test_the_same_run_rolls_back_once(world: World, to: int) -> None:
    world.roll_back(to)
    states = world.states
    assert world.roll_back(to)["generation"] == 1
    assert (world.seat.current(), world.states) == (1, states)


@pytest.mark.parametrize("how", ["failing_checks", "broken"])
def test_a_failed_rollback_returns_to_the_generation_it_came_from(world: World, how: str) -> None:
    (world.failing_checks if how == "failing_checks" else world.compose.broken).add(1)
    record = world.roll_back()
    assert (record["state"], record["generation"]) == ("rolled_back", 2)
    assert (world.seat.current(), world.compose.running) == (2, 2)


def test_a_rollback_without_a_target_changes_nothing(world: World, engine: FakeEngine) -> None:
    calls = list(world.compose.calls)
    with pytest.raises(ProblemError, match=r"has no generation 7; the current one is 2, others: 1"):
        world.roll_back(to=7)
    del engine.images[OLD]
    for to in (0, 1):
        with pytest.raises(ProblemError, match="has generation 1, but not its image") as caught:
            world.roll_back(to)
        assert caught.value.problem["code"] == "no_rollback_target"  # type: ignore[attr-defined]
    world.seat.delete_generation(1)
    with pytest.raises(ProblemError, match="no generation before the current one"):
        world.roll_back()
    assert world.compose.calls == calls


def test_a_generation_that_compose_refuses_is_not_a_rollback_target(world: World) -> None:
    (world.seat.generation(1) / "compose.yaml").unlink()
    with pytest.raises(ProblemError, match="compose_refused"):
        world.roll_back()
    assert world.compose.running == 2


DOCUMENT = {"files": {"compose.yaml": ["services: {}\n", "deploy", ""]}}
CARDS = ("GPU-00000000-0000-4000-8000-00000000000a", "GPU-00000000-0000-4000-8000-00000000000b")


def with_card(root: Path, reference: str, card: str) -> dict[str, Any]:
    """Return an order whose seat has this card, in its compose file too."""
    order = with_seat(an_order(root, document=DOCUMENT), gpus=[card], shared=False)
    image = {**order["image"], "reference": reference}
    return {**order, "image": image, "files": {**order["files"], **fill.fill(DOCUMENT, order["seat"])}}


def test_a_generation_is_rolled_back_to_with_the_gpus_that_the_seat_has_now(
    tmp_path: Path, world: World, idle: list[Any]
) -> None:
    idle += map(a_gpu, CARDS)
    seat, (before, now) = world.seat, CARDS
    seat.write(1, with_card(tmp_path, OLD, before), {})
    seat.write(2, with_card(tmp_path, NEW, now), {})
    assert world.roll_back()["generation"] == 1
    assert seat.order(1) == with_card(tmp_path, OLD, now)
    assert (seat.generation(1) / "compose.yaml").read_text() == with_card(tmp_path, OLD, now)["files"]["compose.yaml"]
    assert seat.order(2) == with_card(tmp_path, NEW, now)


def test_generations_that_differ_in_their_gpus_alone_are_the_same(tmp_path: Path, world: World) -> None:
    seat = world.seat
    for number, (reference, card) in enumerate(((OLD, CARDS[0]), (NEW, CARDS[0]), (NEW, CARDS[1])), 1):
        seat.write(number, with_card(tmp_path, reference, card), {})
    seat.commit(3)
    assert seat.previous() == 1


def test_a_generation_of_an_earlier_release_keeps_its_gpus(tmp_path: Path, world: World, idle: list[Any]) -> None:
    idle += map(a_gpu, CARDS)
    seat, order = world.seat, with_card(tmp_path, OLD, CARDS[0])
    seat.write(1, {key: value for key, value in order.items() if key != "document"}, {})
    seat.write(2, with_card(tmp_path, NEW, CARDS[1]), {})
    assert world.roll_back()["generation"] == 1
    assert CARDS[0] in (seat.generation(1) / "compose.yaml").read_text()


def test_beside_a_damaged_generation_the_target_keeps_its_gpus(tmp_path: Path, world: World) -> None:
    seat = world.seat
    seat.write(1, with_card(tmp_path, OLD, CARDS[0]), {})
    (seat.generation(2) / "order.json").write_text("{")
    seat.inherit(1)
    assert seat.order(1) == with_card(tmp_path, OLD, CARDS[0])


def test_a_rollback_is_refused_on_a_seat_in_use_and_for_a_stale_plan(world: World, idle: list[Any]) -> None:
    idle[0]["processes"] = [a_process(4242)]
    with pytest.raises(busy.BusyError):
        world.roll_back()
    with pytest.raises(expectations.StalePlanError):
        world.roll_back(expects=1)
    assert world.compose.running == 2
    world.roll_back(when_busy={"policy": "force", "seconds": 0, "reason": "it computes wrongly"})
    assert world.states[-4:] == ["forced", "switching", "verifying", "committed"]


def test_a_removed_seat_has_no_rollback_target(world: World) -> None:
    world.seat.clear_current()
    with pytest.raises(ProblemError, match="the current one is none, others: 1, 2"):
        world.roll_back()


def test_recovery_removes_the_temporary_key_of_a_killed_login_check(world: World) -> None:
    world.journal().append("switching", to=1, back=2)
    key_files = [world.seat.generation(number) / "verify_keys" for number in (1, 2)]
    for key_file in key_files:
        key_file.write_text("ssh-ed25519 AAAA left\n")
    (world.seat.folder / "verify-x").mkdir()
    (world.seat.folder / "verify-x/key").write_text("private")
    world.recover()
    assert [key_file.read_text() for key_file in key_files] == ["", ""]
    assert not list(world.seat.folder.glob("verify-*"))
