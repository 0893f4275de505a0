"""An error or a kill in every state of a switch: the seat ends on old or new, and the journal records which."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import REFERENCE, an_order
from tests.playbooks.world import Killed, World, a_problem, kill_at

switches, seats = module_util("transaction.switch"), module_util("seat.seat")
recovery, undo, retention = (module_util(f"transaction.{name}") for name in ("recover", "undo", "retention"))

pytestmark = pytest.mark.usefixtures("idle")
STATES = ("switching", "verifying", "committed", "rolling_back", "rolled_back")


@pytest.fixture(params=[0, 1], ids=["first", "upgrade"])
def world(request: pytest.FixtureRequest, tmp_path: Path, engine: FakeEngine) -> World:
    engine.images[REFERENCE] = {"RootFS": {"Layers": []}}
    return World(tmp_path, request.param)


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | None], None]:
    """Set the result of verification: an error, or success (None)."""

    def ends(error: Exception | None) -> None:
        def verified(*_: Any) -> dict[str, Any]:
            if error:
                raise error
            return {"checks": {"ssh": "ok"}, "gpu": {"method": "driver", "uuids": ["GPU-1"], "detail": ""}}

        monkeypatch.setattr(module_util("transaction.verify"), "verify", verified)

    ends(None)
    return ends


@pytest.mark.usefixtures("verify")
def test_an_uninterrupted_switch_commits(world: World) -> None:
    old = world.seat.current()
    record = world.transact()
    assert (record["state"], record["generation"], record["checks"]) == ("committed", 2, {"ssh": "ok"})
    assert record["access"]["ssh"] == "ssh -p 22000 student@127.0.0.22"
    assert (world.seat.current(), world.compose.running) == (2, 2)
    assert world.states == ["switching", "verifying", "committed"]
    assert world.journal().lines()[0]["detail"] == {"to": 2, "back": old}


@pytest.mark.parametrize(
    ("error", "code"),
    [(a_problem("not_healthy"), "not_healthy"), (OSError("disk"), "io_error"), (KeyError("bug"), "node_bug")],
)
def test_any_failure_of_verification_rolls_back(
    world: World, verify: Callable[[Exception], None], error: Exception, code: str
) -> None:
    verify(error)
    old = world.seat.current()
    record = world.transact()
    assert (record["state"], record["generation"]) == ("rolled_back", old)
    assert (world.seat.current(), world.compose.running) == (old, old)
    assert world.states == ["switching", "verifying", "rolling_back", "rolled_back"]
    assert record["problems"][0]["code"] == code
    assert (world.seat.generation(2) / "failure.log").read_text() == "logs of the containers"
    assert world.compose.calls[-1] == ("healthy?" if old else "down")


@pytest.mark.usefixtures("verify")
def test_a_failed_start_rolls_back(world: World) -> None:
    world.compose.broken = {2}
    assert world.transact()["state"] == "rolled_back"
    assert world.states == ["switching", "rolling_back", "rolled_back"]


@pytest.mark.usefixtures("verify")
def test_an_undo_that_fails_twice_needs_attention(world: World) -> None:
    old = world.seat.current()
    world.compose.broken = {2, 1, -1}
    record = world.transact()
    assert record["state"] == "needs_attention"
    assert [problem["code"] for problem in record["problems"]] == [
        "start_failed",
        "start_failed" if old else "stop_failed",
    ]
    ways_back = [call for call in world.compose.calls[1:] if call in {"up 1", "down"}]
    assert len(ways_back) == undo.TRIES
    assert world.states[-1] == "needs_attention"


@pytest.mark.parametrize("good", [True, False], ids=["verifies", "fails"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("state", STATES)
def test_recovery_after_a_kill_in_any_state_ends_on_old_or_new(
    world: World, verify: Callable[[Exception | None], None], state: str, when: str, good: bool
) -> None:
    verify(None if good else a_problem("not_healthy"))
    old = world.seat.current()
    try:
        world.transact(kill_at(world.journal(), state, when))
    except Killed:
        world.recover()
    assert world.seat.current() in {old, 2}
    assert world.compose.running == world.seat.current()
    assert (world.seat.current() == 2) == (world.states[-1:] == ["committed"])
    assert world.journal().open_switch() is None
    calls = list(world.compose.calls)
    world.recover()
    assert world.compose.calls == calls


@pytest.mark.parametrize("state", STATES)
def test_a_recovery_killed_in_any_state_is_completed_by_the_next(
    world: World, verify: Callable[[Exception | None], None], state: str
) -> None:
    verify(a_problem("not_healthy"))
    old = world.seat.current()
    with pytest.raises(Killed):
        world.transact(kill_at(world.journal(), "verifying", "after"))
    try:
        recovery.recover_seat(world.compose, kill_at(world.journal("r2"), state, "after"), world.order, world.report)
    except Killed:
        world.recover("r3")
    assert (world.seat.current(), world.compose.running) == (old, old)
    assert world.states[-1] == "rolled_back"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("state", ["switching", "verifying", "committed"])
@pytest.mark.usefixtures("verify")
def test_a_run_that_continues_after_a_kill_commits(world: World, state: str, when: str) -> None:
    with pytest.raises(Killed):
        world.transact(kill_at(world.journal(), state, when))
    world.recover("r1")
    if world.seat.staged(world.order):
        assert world.transact()["state"] == "committed"
    assert (world.seat.current(), world.compose.running, world.states[-1]) == (2, 2, "committed")


@pytest.mark.usefixtures("verify")
def test_a_failed_recovery_raises_needs_attention(world: World) -> None:
    with pytest.raises(Killed):
        world.transact(kill_at(world.journal(), "verifying", "after"))
    world.compose.broken = {1, -1}
    with pytest.raises(ProblemError, match="could not be restored") as caught:
        world.recover()
    assert caught.value.problem["code"] == "needs_attention"  # type: ignore[attr-defined]


@pytest.mark.usefixtures("verify")
def test_the_switch_stays_open_if_recovery_has_no_engine(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Killed):
        world.transact(kill_at(world.journal(), "verifying", "after"))
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such.sock")
    with pytest.raises(ProblemError):
        world.recover()
    assert world.journal().open_switch() is not None


@pytest.mark.usefixtures("verify")
def test_an_undo_without_the_old_image_stops_the_seat(world: World, engine: FakeEngine) -> None:
    engine.images.clear()
    world.compose.broken = {2}
    world.compose.running = 0
    record = world.transact()
    assert (record["state"], record["generation"], world.compose.running) == ("rolled_back", 0, 0)
    assert "up 1" not in world.compose.calls


@pytest.mark.usefixtures("verify")
def test_a_seat_that_runs_without_its_image_is_not_stopped(world: World, engine: FakeEngine) -> None:
    if not world.old:
        world.seat.commit(1)
        world.seat.write(1, world.order, {})
    engine.images.clear()
    world.compose.running = 1
    with pytest.raises(ProblemError, match="whose image was removed from the node by force") as caught:
        world.transact()
    assert caught.value.problem["code"] == "no_way_back"  # type: ignore[attr-defined]
    assert (world.compose.calls, world.states) == ([], [])


@pytest.mark.usefixtures("verify")
def test_a_switch_that_cannot_be_recorded_does_not_begin(world: World) -> None:
    world.seat.folder.joinpath("journal.jsonl").mkdir()
    with pytest.raises(ProblemError, match="Is a directory"):
        world.transact()
    assert world.compose.calls == []


def test_a_commit_keeps_only_the_new_and_the_previous_generation(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.images[REFERENCE] = {"RootFS": {}}
    world = World(tmp_path, 1).patch_node_code(monkeypatch)
    for number, text in ((3, "three"), (4, "four")):
        world.seat.write(number, world.order | {"files": {"compose.yaml": text}}, {})
    world.failing_checks = {4}
    assert world.switch("r4", files={"compose.yaml": "four"})["state"] == "rolled_back"
    assert world.seat.numbers() == [1, 2, 3, 4]
    assert world.switch("r3", files={"compose.yaml": "three"})["state"] == "committed"
    assert world.seat.numbers() == [1, 3]


@pytest.mark.usefixtures("engine")
def test_a_switch_without_a_staged_generation_or_its_image_is_refused(tmp_path: Path) -> None:
    order = an_order(tmp_path)
    seat = seats.seat_of(order)
    seat.make_folders()
    with pytest.raises(ProblemError, match="to switch to is not on the node"):
        switches._check_ready(seat, order)
    seat.write(1, order, {})
    with pytest.raises(ProblemError, match="not on the node"):  # its image was pruned
        switches._check_ready(seat, order)


def test_old_generations_are_removed_with_their_images(tmp_path: Path, engine: FakeEngine) -> None:
    references = {number: f"r.lab/lab@sha256:{number:064x}" for number in (1, 2, 3)}
    seat = seats.seat_of(an_order(tmp_path))
    seat.make_folders()
    for number, reference in references.items():
        engine.images[reference] = {"RepoTags": [f"provisioner/keep:{seat.tag(number)}"]}
        seat.write(number, an_order(tmp_path, image={"reference": reference}), {})
    engine.images[references[1]]["RepoTags"].append("student/own:tag")
    retention.remove_old_generations(seat, {2, 3})
    assert seat.numbers() == [2, 3]
    assert set(engine.images) == {references[2], references[3]}
    assert engine.images[references[2]]["RepoTags"] == ["provisioner/keep:demo-student-g2"]


def test_an_image_that_another_seat_keeps_is_not_removed(tmp_path: Path, engine: FakeEngine) -> None:
    seat = seats.seat_of(an_order(tmp_path))
    seat.make_folders()
    engine.images[REFERENCE] = {"RepoTags": ["provisioner/keep:demo-student-g1", "provisioner/keep:demo-other-g4"]}
    seat.write(1, an_order(tmp_path), {})
    retention.remove_old_generations(seat, set())
    assert seat.numbers() == []
    assert engine.images[REFERENCE]["RepoTags"] == ["provisioner/keep:demo-other-g4"]


@pytest.fixture
def home(world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of the seat's user, with a file in it that stops Jupyter."""
    world.patch_node_code(monkeypatch)
    world.compose.bad_home = True
    path = Path(world.order["seat"]["home"])
    path.mkdir(parents=True)
    (path / ".bashrc").write_text("exit 7\n")
    return path


@pytest.mark.usefixtures("home")
def test_a_home_that_stops_its_seat_is_named_and_the_node_is_committed(world: World) -> None:
    record = world.transact()
    assert (record["state"], [problem["code"] for problem in record["problems"]]) == ("committed", ["home_fault"])
    assert "jupyter_fails" in record["problems"][0]["what"]
    assert world.journal().last_step()["detail"]["home_fault"] == record["problems"][0]
    assert (world.seat.current(), world.compose.running) == (2, 2)
    assert world.compose.fails_by_its_home  # its containers have the user's home again


PENDING = {"code": "proof_pending", "what": "GPU-1 is in use", "why": "why", "fix": "fix"}


@pytest.mark.parametrize("bad_home", [True, False])
def test_a_proof_that_is_pending_is_a_problem_of_a_committed_seat_and_none_of_its_home(
    world: World, home: Path, monkeypatch: pytest.MonkeyPatch, bad_home: bool
) -> None:
    assert home.exists()
    checked = world.verify
    monkeypatch.setattr(
        module_util("transaction.verify"), "verify", lambda *words: {**checked(*words), "problems": [PENDING]}
    )
    world.compose.bad_home = bad_home
    record = world.transact()
    codes = ["proof_pending", "home_fault"][: 1 + bad_home]
    assert (record["state"], [problem["code"] for problem in record["problems"]]) == ("committed", codes)
    assert world.journal().last_step()["detail"].get("home_fault") == (record["problems"][1] if bad_home else None)


@pytest.mark.usefixtures("verify")
def test_what_does_not_answer_inside_is_a_caution_and_a_person_does_not_wait_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()

    def check_seat(_order: object, questions: str, container: str) -> list[dict[str, str]]:
        asked.extend((questions, container))
        return [{**PENDING, "code": "index_limited"}]

    monkeypatch.setattr(switches, "check_seat", check_seat)
    world.order["files"]["inside.json"] = "{}"
    record = world.transact()
    assert (record["state"], [problem["code"] for problem in record["problems"]]) == ("committed", ["index_limited"])
    of_broker = {**world.order, "by": "broker"}
    assert switches._cautions_inside(world.compose, of_broker, world.report) == []
    assert asked == ["{}", "jupyter"]


@pytest.mark.usefixtures("home")
def test_a_seat_that_does_not_verify_is_not_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switches, "check_seat", lambda *_: pytest.fail("it was asked"))
    world.order["files"]["inside.json"] = "{}"
    world.failing_checks = {2}
    assert world.transact()["state"] == "rolled_back"


@pytest.mark.usefixtures("home")
def test_a_fault_of_the_image_is_none_of_the_home(world: World) -> None:
    world.failing_checks = {2}
    record = world.transact()
    assert record["state"] == "rolled_back"
    assert [problem["code"] for problem in record["problems"]] == ["jupyter_fails", "home_fault"][: 1 + bool(world.old)]
    assert ("home_fault" in world.journal().last_step()["detail"]) == bool(world.old)
    assert (world.seat.current(), world.compose.running) == (world.old, world.old)


@pytest.mark.usefixtures("home")
def test_containers_that_were_killed_while_they_were_checked_are_no_fault_of_the_home(world: World) -> None:
    world.compose.bad_home, world.killed_checks = False, 1
    record = world.transact()
    assert (record["state"], "problems" in record) == ("committed", False)
    assert (world.killed_checks, world.compose.running) == (0, 2)


def test_an_empty_home_is_not_tried_again(world: World, home: Path) -> None:
    (home / ".bashrc").unlink()
    assert world.transact()["state"] == ("needs_attention" if world.old else "rolled_back")
    assert world.compose.calls.count("up 2") == 1
