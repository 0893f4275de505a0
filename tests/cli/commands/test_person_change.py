"""`provision seats move`, `stop` and `start`: the seats of one person, the lock, the record and the exit code."""

from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters.user import holder
from provisioner.cli.run_context import hold_lab
from provisioner.domain.lab.lock import Placement
from tests.builders import a_uuid
from tests.cli.commands.people_fleet import ROSTER, PeopleLab
from tests.cli.running import document, run
from tests.workflow.fake_fleet import a_claim

REASON = ("--reason", "gpu1 is repaired")
ALL = {"gpu1": ["ml_anna", "ml_bob"], "gpu2": ["ml_eve"]}
MOVED = {"gpu1": ["ml_bob"], "gpu2": ["ml_anna", "ml_eve"]}
STOPPED = {"gpu1": ["ml_bob"], "gpu2": ["ml_eve"]}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PeopleLab:
    """Return a lab where everybody has a seat: anna on gpu1 with a card of her own."""
    found = PeopleLab(tmp_path, monkeypatch)
    done = run("rollout", str(tmp_path), "--yes")
    assert (done.exit_code, found.fleet.running()) == (0, ALL), done.output
    found.fleet.seat_calls.clear()
    return found


def seats(lab: PeopleLab, verb: str, *words: str) -> Any:
    return run("seats", verb, str(lab.path), "anna", *words, "--yes")


def assert_nothing_left_to_do(lab: PeopleLab) -> None:
    before = lab.fleet.running()
    lab.fleet.seat_calls.clear()
    again = run("rollout", str(lab.path), "--yes")
    assert (again.exit_code, lab.fleet.running(), lab.fleet.seat_calls) == (0, before, []), again.output


def test_move_sets_the_new_seat_up_before_it_stops_the_old_one(lab: PeopleLab) -> None:
    done = seats(lab, "move", "gpu2", *REASON, "--json")
    assert (done.exit_code, lab.fleet.running()) == (0, MOVED), done.output
    assert lab.fleet.seat_calls == [
        ("stage", "gpu2", ("ml_anna",)),
        ("switch", "gpu2", ("ml_anna",)),
        ("switch", "gpu1", ("ml_anna",)),
    ]
    assert lab.places()["anna"] == Placement(node="gpu2", uid=70001, gpus=(a_uuid("gpu2/0"),))
    states = {record["node"]: record["counts"] for record in document(done)["nodes"]}
    assert states == {"gpu2": {"committed": 1}, "gpu1": {"committed": 1}}
    note = {"verb": "seats move", "person": "anna", "reason": "gpu1 is repaired", "holder": holder()}
    assert lab.notes() == [note]


def test_nobody_is_restarted_to_share_the_card_that_a_move_has_freed(lab: PeopleLab) -> None:
    assert seats(lab, "move", "gpu2", *REASON).exit_code == 0
    assert_nothing_left_to_do(lab)


def test_who_is_not_placed_yet_gets_no_place_by_the_move_of_another(lab: PeopleLab) -> None:
    lab.write_roster(ROSTER + "zoe,70004,gpu2,1\n")
    assert seats(lab, "move", "gpu2", *REASON).exit_code == 0
    assert (set(lab.places()), lab.fleet.running()) == ({"anna", "bob", "eve"}, MOVED)


def test_move_says_what_does_not_move_along(lab: PeopleLab) -> None:
    done = seats(lab, "move", "gpu2", *REASON)
    assert "moves_node  anna" in done.stdout
    assert "a home on the disk of gpu1 does not move along" in done.stdout
    assert "ml_bob" not in done.stdout
    assert "gpu1  committed  taken down; home, token and host key stay" in done.stdout


def test_a_card_that_others_share_is_named_until_the_next_rollout(lab: PeopleLab) -> None:
    lab.write_roster(ROSTER.replace("eve,70003,gpu2,0", "eve,70003,gpu2,shared"))
    assert run("rollout", str(lab.path), "--yes").exit_code == 0
    done = seats(lab, "move", "gpu2", *REASON)
    assert (done.exit_code, "gpu2: other seats have GPUs of anna until the next rollout: eve" in done.stdout) == (
        0,
        True,
    )


def test_who_is_there_already_is_left_as_they_are(lab: PeopleLab) -> None:
    before = (lab.path / "lab.lock").read_bytes()
    done = run("seats", "move", str(lab.path), "anna", "gpu1", *REASON)  # without --yes: nothing is asked
    assert (done.exit_code, lab.fleet.seat_calls, (lab.path / "lab.lock").read_bytes()) == (0, [], before), done.output


@pytest.mark.parametrize("is_busy", [False, True])
def test_who_is_there_already_is_left_also_where_a_rollout_would_change_the_seat(lab: PeopleLab, is_busy: bool) -> None:
    with (lab.path / "lab.yml").open("a") as file:
        file.write("seat: {limits: {pids: 512}}\n")
    if is_busy:
        lab.fleet.work("gpu1", "ml_bob")
    lab.fleet.seat_calls.clear()
    done = run("seats", "move", str(lab.path), "bob", "gpu1", *REASON)
    assert (done.exit_code, lab.fleet.seat_calls) == (0, []), done.output
    assert "left to `provision rollout`: the rendered files change" in done.stdout


@pytest.mark.parametrize(
    ("words", "roster", "code", "said"),
    [
        (("ana", "gpu2"), ROSTER, 2, 'no row of the roster has the id "ana"; did you mean "anna"?'),
        (("anna", "gpu3"), ROSTER, 2, 'no node of the inventory is called "gpu3"; did you mean "gpu'),
        (("bob", "gpu2"), ROSTER, 2, 'allows bob only "gpu1", which gpu2 is not'),
        (("anna", "gpu2"), ROSTER.replace("gpu*,1", "gpu*,3"), 1, "asks for 3 own cards"),
        (("anna", "gpu2"), ROSTER.replace("gpu*,1", ",1").replace("gpus\n", "gpus,until\n"), 2, "last day"),
    ],
)
def test_a_move_that_is_not_possible_changes_nothing(
    lab: PeopleLab, words: tuple[str, ...], roster: str, code: int, said: str
) -> None:
    if "until" in roster:
        roster = roster.replace(",1\n", ",1,2020-01-31\n")
    lab.write_roster(roster)
    before = (lab.path / "lab.lock").read_bytes()
    done = run("seats", "move", str(lab.path), *words, *REASON, "--yes")
    assert (done.exit_code, said in done.stderr) == (code, True), done.output
    assert (lab.fleet.seat_calls, (lab.path / "lab.lock").read_bytes()) == ([], before)


def test_a_move_that_the_memory_of_the_node_does_not_allow_changes_nothing(lab: PeopleLab) -> None:
    """Two limits of 100 GB are more than twice the 67 GB of a node."""
    with (lab.path / "lab.yml").open("a") as file:
        file.write("groups: {big: {memory: 100g, gpus: 1}}\n")
    lab.write_roster("id,uid,node,gpus,group\nanna,70001,gpu*,1,big\nbob,70002,gpu1,shared,\neve,70003,gpu2,0,big\n")
    assert run("rollout", str(lab.path), "--yes").exit_code == 0
    before = lab.places()
    lab.fleet.seat_calls.clear()
    done = seats(lab, "move", "gpu2", *REASON)
    assert (done.exit_code, "memory_overcommitted" in done.stderr) == (1, True), done.output
    assert (lab.fleet.running(), lab.fleet.seat_calls, lab.places()) == (ALL, [], before)


def test_a_move_to_a_node_that_does_not_answer_changes_nothing(lab: PeopleLab) -> None:
    lab.fail("reach", "gpu2", "unreachable")
    done = seats(lab, "move", "gpu2", *REASON)
    assert (done.exit_code, "unreachable" in done.stderr, lab.fleet.seat_calls) == (1, True, [])
    assert lab.places()["anna"].node == "gpu1"


def test_a_move_away_from_a_node_that_is_off_gives_the_seat_and_says_that_the_old_one_is_left(lab: PeopleLab) -> None:
    lab.fail("reach", "gpu1", "unreachable")
    done = seats(lab, "move", "gpu2", *REASON, "--json")
    states = {record["node"]: record["state"] for record in document(done)["nodes"]}
    assert (done.exit_code, states) == (1, {"gpu2": "committed", "gpu1": "unreachable"})
    assert (lab.places()["anna"].node, "does what is left of it" in done.stderr) == ("gpu2", True)
    lab.fleet.ends = {}
    assert run("rollout", str(lab.path), "--yes").exit_code == 0
    assert lab.fleet.running() == MOVED


@pytest.mark.parametrize(("act", "state"), [("stage", "failed"), ("switch", "rolled_back")])
@pytest.mark.parametrize(("then", "running"), [("gpu1", ALL), ("gpu2", MOVED)])
def test_the_old_seat_runs_on_where_the_new_one_fails_and_the_move_can_be_taken_back_or_repeated(
    lab: PeopleLab, act: str, state: Any, then: str, running: Any
) -> None:
    lab.fail(act, "gpu2", state)
    done = seats(lab, "move", "gpu2", *REASON, "--json")
    states = {record["node"]: record["state"] for record in document(done)["nodes"]}
    assert (done.exit_code, states) == (1, {"gpu2": state, "gpu1": "not_started"})
    assert "ml_anna" in lab.fleet.running()["gpu1"]
    assert f"provision seats move {lab.path} anna gpu1" in done.stderr
    lab.fleet.ends = {}
    after = seats(lab, "move", then, *REASON)
    assert (after.exit_code, lab.places()["anna"].node, lab.fleet.running()) == (0, then, running), after.output


@pytest.mark.parametrize("words", [("move", "gpu2"), ("stop",)])
def test_a_seat_in_use_is_left_and_no_other_is_given_meanwhile(lab: PeopleLab, words: tuple[str, ...]) -> None:
    lab.fleet.work("gpu1", "ml_anna")
    before = (lab.path / "lab.lock").read_bytes()
    done = seats(lab, *words, *REASON, "--json")
    found = {record["state"] for record in document(done)["nodes"]}
    assert (done.exit_code, found, lab.fleet.seat_calls) == (4, {"deferred"}, [])
    assert (lab.fleet.running(), (lab.path / "lab.lock").read_bytes()) == (ALL, before)


@pytest.mark.parametrize(("words", "running"), [(("move", "gpu2"), MOVED), (("stop",), STOPPED)])
def test_force_takes_the_reason_of_the_change(lab: PeopleLab, words: tuple[str, ...], running: Any) -> None:
    lab.fleet.work("gpu1", "ml_anna")
    done = seats(lab, *words, *REASON, "--when-busy", "force")
    assert (done.exit_code, lab.fleet.running()) == (0, running), done.output
    assert "Work is stopped on gpu1: gpu1 is repaired" in done.stdout


def test_a_stopped_seat_stays_stopped_until_it_is_started(lab: PeopleLab) -> None:
    place = lab.places()["anna"]
    done = seats(lab, "stop", "--reason", " fills\nthe disk ")
    assert (done.exit_code, lab.fleet.running()) == (0, STOPPED), done.output
    assert lab.places()["anna"] == place.model_copy(update={"stopped": "fills the disk"})
    assert lab.notes()[-1] == {"verb": "seats stop", "person": "anna", "reason": "fills the disk", "holder": holder()}
    assert_nothing_left_to_do(lab)
    started = seats(lab, "start", "--json")
    assert (started.exit_code, lab.fleet.running(), lab.places()["anna"]) == (0, ALL, place), started.output
    assert document(started)["nodes"][0]["counts"] == {"committed": 1}
    assert_nothing_left_to_do(lab)


def test_a_stop_for_the_same_reason_changes_nothing_and_one_for_another_is_remembered(lab: PeopleLab) -> None:
    assert seats(lab, "stop", *REASON).exit_code == 0
    lab.fleet.seat_calls.clear()
    again = run("seats", "stop", str(lab.path), "anna", *REASON, "--json")  # without --yes: nothing is asked
    assert (again.exit_code, document(again)["nodes"], lab.fleet.seat_calls) == (0, [], []), again.output
    assert seats(lab, "stop", "--reason", "exam").exit_code == 0
    assert (lab.places()["anna"].stopped, lab.fleet.running(), lab.fleet.seat_calls) == ("exam", STOPPED, [])


def test_a_stopped_person_is_moved_without_a_seat_and_starts_there(lab: PeopleLab) -> None:
    assert seats(lab, "stop", *REASON).exit_code == 0
    moved = seats(lab, "move", "gpu2", *REASON)
    assert (moved.exit_code, lab.fleet.running(), lab.places()["anna"].node) == (0, STOPPED, "gpu2"), moved.output
    assert "No seat of anna runs, and none is set up." in moved.stderr
    assert seats(lab, "start").exit_code == 0
    assert lab.fleet.running() == MOVED


def test_a_stop_on_a_node_that_is_off_is_remembered_for_the_next_rollout(lab: PeopleLab) -> None:
    lab.fail("reach", "gpu1", "unreachable")
    done = seats(lab, "stop", *REASON)
    assert (done.exit_code, lab.places()["anna"].stopped) == (1, "gpu1 is repaired")
    refused = seats(lab, "start")
    assert (refused.exit_code, "unreachable" in refused.stderr) == (1, True)
    lab.fleet.ends = {}
    assert run("rollout", str(lab.path), "--yes").exit_code == 0
    assert lab.fleet.running() == STOPPED


def test_a_plan_that_was_saved_before_a_stop_does_not_start_the_seat(lab: PeopleLab) -> None:
    saved = lab.path / "plan.json"
    assert run("plan", str(lab.path), "-o", str(saved)).exit_code == 0
    assert seats(lab, "stop", *REASON).exit_code == 0
    assert run("rollout", str(lab.path), "--plan", str(saved), "--yes").exit_code == 6
    assert run("rollout", str(lab.path), "--plan", str(saved), "--skip-stale", "--yes").exit_code == 6
    assert (lab.fleet.running(), lab.places()["anna"].stopped) == (STOPPED, "gpu1 is repaired")


def test_list_shows_the_reason_and_the_place_of_who_is_stopped(lab: PeopleLab) -> None:
    assert seats(lab, "stop", *REASON).exit_code == 0
    entry = next(
        seat for seat in document(run("seats", "list", str(lab.path), "--json"))["seats"] if seat["person"] == "anna"
    )
    assert (entry["node"], entry["state"], entry["reason"]) == ("gpu1", "stopped", "gpu1 is repaired")
    assert entry["gpus"] == [{"uuid": a_uuid("gpu1/0"), "index": "0"}]
    assert "stopped: gpu1 is repaired" in run("seats", "list", str(lab.path)).stdout
    letters = document(run("letters", str(lab.path), "--to", str(lab.path / "letters"), "--json"))
    assert letters["without"]["anna"]["code"] == "seat_stopped"


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        ("x" * 121, "has 121 characters; the maximum is 120"),
        ("\x1b[2Jgone", "contains U+001B"),
        ("a\u202eb", "contains U+202E"),
    ],
)
@pytest.mark.parametrize("words", [("move", "gpu2"), ("stop",)])
def test_a_reason_is_one_short_printable_line(lab: PeopleLab, words: tuple[str, ...], reason: str, said: str) -> None:
    done = seats(lab, *words, "--reason", reason)
    assert (done.exit_code, said in done.stderr, lab.fleet.seat_calls) == (2, True, [])


@pytest.mark.parametrize("words", [("move", "gpu2"), ("stop",)])
def test_move_and_stop_need_a_reason(lab: PeopleLab, words: tuple[str, ...]) -> None:
    done = seats(lab, *words)
    assert (done.exit_code, "--reason" in done.stderr) == (2, True)


@pytest.mark.parametrize("words", [("move", "gpu2", *REASON), ("stop", *REASON), ("start",)])
def test_a_limit_is_refused(lab: PeopleLab, words: tuple[str, ...]) -> None:
    done = seats(lab, *words, "--limit", "gpu1")
    assert (done.exit_code, "--limit is not accepted" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "node"), [(("move", "gpu2"), "gpu2"), (("move", "gpu2"), "gpu1"), (("stop",), "gpu1")]
)
def test_a_node_that_another_run_has_claimed_is_exit_5_and_nothing_changes(
    lab: PeopleLab, words: tuple[str, ...], node: str
) -> None:
    lab.fleet.claim({node: a_claim("another", fence=9)}, "")
    before = (lab.path / "lab.lock").read_bytes()
    done = seats(lab, *words, *REASON)
    assert (done.exit_code, "another" in done.stderr) == (5, True), done.output
    assert (lab.fleet.running(), lab.fleet.seat_calls, (lab.path / "lab.lock").read_bytes()) == (ALL, [], before)


def test_another_run_of_this_machine_at_the_lab_is_exit_5(lab: PeopleLab) -> None:
    with hold_lab("ml", "another", "rollout"):
        done = seats(lab, "stop", *REASON)
    assert (done.exit_code, lab.fleet.seat_calls) == (5, [])


@pytest.mark.parametrize("moment", ["stage before gpu2", "switch before gpu2", "switch before gpu1"])
def test_a_move_that_was_interrupted_is_finished_by_resume(lab: PeopleLab, moment: str) -> None:
    def interrupt(now: str) -> None:
        if now == moment:
            raise KeyboardInterrupt

    lab.fleet.at = interrupt
    done = seats(lab, "move", "gpu2", *REASON)
    assert (done.exit_code, "ml_anna" in lab.fleet.running()["gpu1"]) == (130, True), done.output
    lab.fleet.at = lambda _: None
    resumed = run("resume", str(lab.path))
    assert (resumed.exit_code, lab.fleet.running()) == (0, MOVED), resumed.output


def test_without_an_answer_nothing_changes(lab: PeopleLab) -> None:
    done = run("seats", "stop", str(lab.path), "anna", *REASON)
    assert (done.exit_code, "Stop the seat of anna?" in done.stderr) == (2, True)
    assert (lab.fleet.running(), lab.places()["anna"].stopped) == (ALL, "")
