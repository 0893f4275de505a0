import json
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine, a_container, put
from tests.playbooks.fake_nvml import a_gpu, a_process
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import REFERENCE, NoJob, an_order

seats, facts, removals, journals = (
    module_util(name) for name in ("seat.seat", "seat.facts", "transaction.remove", "seat.journal")
)


def a_committed_seat(tmp_path: Path) -> Any:
    order = an_order(tmp_path)
    seat = seats.seat_of(order)
    seat.make_folders()
    seat.write(3, order, {})
    seat.commit(3)
    journals.Journal(seat.folder, "r1").append("committed", generation=3)
    return seat


def test_the_probe_tells_what_is_in_force_and_what_of_it_runs(tmp_path: Path, engine: FakeEngine) -> None:
    seat = a_committed_seat(tmp_path)
    put(engine, a_container("ssh"))
    (fact,) = facts.seat_facts(str(tmp_path / "state"))
    assert fact == {
        "name": "demo-student",
        "generation": 3,
        "image": REFERENCE,
        "files": seat.files(3),
        "ports": {"ssh": 22000, "jupyter": 22001},
        "gpus": ["GPU-1"],
        "host_key": "",
        "services": {"jupyter": "missing", "ssh": "healthy"},
        "state": "committed",
        "run": "r1",
        "previous": 0,
        "layer_bytes": 0,
        "at_work": ["the driver does not list GPU-1: its use is unknown"],
        "drift": [],
    }


@pytest.mark.parametrize(
    ("containers", "gpus", "told"),
    [
        (["ssh"], [a_gpu("GPU-1", processes=[a_process(4242)])], ["GPU 0: pid 4242 python of li"]),
        (["ssh"], [a_gpu("GPU-2", processes=[a_process(4242)]), a_gpu("GPU-1")], []),
        (
            ["ssh"],
            [a_gpu("GPU-1", memory_used=2 << 30)],
            ["GPU 0: 2.1 GB are in use by a process that the driver does not list"],
        ),
        (["ssh"], [], ["the driver does not list GPU-1: its use is unknown"]),
        ([], [a_gpu("GPU-1", processes=[a_process(4242)])], []),  # nothing of the seat runs: it is somebody else's
    ],
)
def test_the_probe_tells_whose_work_a_switch_would_end_as_the_switch_itself_would(
    tmp_path: Path, engine: FakeEngine, containers: list[str], gpus: list[Any], told: list[str]
) -> None:
    a_committed_seat(tmp_path)
    put(engine, *map(a_container, containers))
    (fact,) = facts.seat_facts(str(tmp_path / "state"), gpus)
    assert fact["at_work"] == told


def test_where_the_engine_does_not_answer_the_seat_counts_as_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_committed_seat(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such.sock")
    (fact,) = facts.seat_facts(str(tmp_path / "state"), [a_gpu("GPU-1", processes=[a_process(4242)])])
    assert fact["at_work"] == ["GPU 0: pid 4242 python of li"]


def test_the_probe_tells_where_one_could_go_back_to(tmp_path: Path, engine: FakeEngine) -> None:
    seat = a_committed_seat(tmp_path)
    seat.write(2, an_order(tmp_path), {})
    assert facts.seat_facts(str(tmp_path / "state"))[0]["previous"] == 0
    engine.images[REFERENCE] = {"RootFS": {}}
    assert facts.seat_facts(str(tmp_path / "state"))[0]["previous"] == 2


def test_what_was_written_into_containers_themselves_is_counted(tmp_path: Path, engine: FakeEngine) -> None:
    a_committed_seat(tmp_path)
    put(engine, a_container("ssh"), a_container("jupyter"))
    for container, size in zip(engine.containers, (5 << 20, None), strict=True):
        container["SizeRw"] = size
    (fact,) = facts.seat_facts(str(tmp_path / "state"))
    assert fact["layer_bytes"] == 5 << 20
    assert sum("size=1" in request for request in engine.requests) == 1


def test_a_damaged_seat_is_told_as_one_and_hides_no_other_fact(tmp_path: Path, engine: FakeEngine) -> None:
    seat = a_committed_seat(tmp_path)
    put(engine, a_container("ssh"))
    (seat.generation(3) / "order.json").unlink()
    (fact,) = facts.seat_facts(str(tmp_path / "state"))
    assert (fact["state"], fact["generation"], fact["ports"]) == ("damaged", 3, {"ssh": 22000})


def test_what_a_seat_could_go_back_to_is_told_and_what_cannot_be_read_is_not_left_out(tmp_path: Path) -> None:
    assert facts.kept_images(str(tmp_path / "state")) == []
    seat = a_committed_seat(tmp_path)
    order = an_order(tmp_path)
    older = order | {"image": order["image"] | {"reference": REFERENCE.replace("a" * 64, "b" * 64)}}
    seat.write(2, older, {})
    assert facts.kept_images(str(tmp_path / "state")) == [REFERENCE, older["image"]["reference"]]
    (seat.generation(2) / "order.json").write_text("{")
    assert facts.kept_images(str(tmp_path / "state")) == [REFERENCE, "unknown"]


def test_a_seat_whose_record_is_lost_still_holds_its_ports(tmp_path: Path, engine: FakeEngine) -> None:
    put(engine, a_container("ssh"), seat="demo-lost")
    (fact,) = facts.seat_facts(str(tmp_path))
    assert (fact["name"], fact["generation"], fact["state"]) == ("demo-lost", 0, "unrecorded")
    assert fact["ports"] == {"ssh": 22000}


@pytest.mark.parametrize(("state", "told"), [("staged", False), ("removed", False), ("verifying", True)])
@pytest.mark.usefixtures("engine")
def test_a_seat_that_never_was_in_force_is_told_only_while_it_is_open(tmp_path: Path, state: str, told: bool) -> None:
    seat = seats.seat_of(an_order(tmp_path))
    seat.make_folders()
    journals.Journal(seat.folder, "r1").append(state)
    assert [fact["state"] for fact in facts.seat_facts(str(tmp_path / "state"))] == ([state] if told else [])


def test_without_an_engine_the_services_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_committed_seat(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such.sock")
    (fact,) = facts.seat_facts(str(tmp_path / "state"))
    assert fact["services"] == {"jupyter": "unknown", "ssh": "unknown"}
    assert (fact["layer_bytes"], fact["drift"]) == (None, [])


@pytest.mark.parametrize(
    ("state", "generation", "services", "needed"),
    [
        ("needs_attention", 1, {"jupyter": "exited", "ssh": "healthy"}, True),
        ("needs_attention", 0, {"jupyter": "exited", "ssh": "missing"}, True),
        ("needs_attention", 1, {"jupyter": "healthy", "ssh": "healthy"}, False),
        ("needs_attention", 0, {"jupyter": "missing", "ssh": "missing"}, False),
        ("needs_attention", 1, {"jupyter": "missing", "ssh": "missing"}, True),
        ("rolled_back", 1, {"jupyter": "exited", "ssh": "healthy"}, False),
    ],
)
def test_attention_is_needed_until_the_seat_is_well_or_gone(
    state: str, generation: int, services: dict[str, str], needed: bool
) -> None:
    problem = facts.attention_problem({"name": "s", "state": state, "generation": generation, "services": services})
    assert (problem is not None) == needed


@pytest.mark.usefixtures("ran")
def test_a_stopped_seat_can_come_back_as_it_was(tmp_path: Path, engine: FakeEngine) -> None:
    seat = a_committed_seat(tmp_path)
    put(engine, a_container("ssh"))
    record = removals.stop(an_order(tmp_path), NoJob(), 0)
    assert (record["state"], record["generation"]) == ("committed", 3)
    assert seat.current() == 3
    engine.containers.clear()
    assert removals.stop(an_order(tmp_path), NoJob(), 0)["state"] == "unchanged"


@pytest.mark.usefixtures("ran")
def test_a_seat_is_not_taken_from_under_somebodys_work_without_consent(
    tmp_path: Path, engine: FakeEngine, idle: list[Any]
) -> None:
    seat = a_committed_seat(tmp_path)
    put(engine, a_container("ssh"))
    idle[0]["processes"] = [a_process(4242)]
    wish = {"policy": "defer", "seconds": 0, "reason": ""}
    with pytest.raises(ProblemError, match="pid 4242 python of li"):
        removals.remove(an_order(tmp_path, when_busy=wish), NoJob(), 0)
    assert (seat.current(), len(engine.containers)) == (3, 1)
    forced = an_order(tmp_path, when_busy={**wish, "policy": "force", "reason": "the term is over"})
    assert removals.remove(forced, NoJob(), 0)["state"] == "committed"
    states = [line["state"] for line in journals.Journal(seat.folder, "r1").lines()]
    assert states == ["committed", "forced", "removing", "removed"]


@pytest.mark.usefixtures("ran")
def test_a_removed_seat_keeps_identity_and_home_alone(tmp_path: Path, engine: FakeEngine) -> None:
    seat = a_committed_seat(tmp_path)
    module_util("seat.precheck").ensure_home(Path(an_order(tmp_path)["seat"]["home"]), 0, 0)
    (seat.identity / "token").write_text("kept")
    engine.images[REFERENCE] = {"RepoTags": [f"provisioner/keep:{seat.tag(3)}"]}
    assert removals.remove(an_order(tmp_path), NoJob(), 0)["state"] == "committed"
    assert (seat.current(), seat.numbers(), engine.images) == (0, [], {})
    assert (seat.identity / "token").read_text() == "kept"
    assert (tmp_path / "homes/student").is_dir()
    states = [json.loads(line)["state"] for line in (seat.folder / "journal.jsonl").read_text().splitlines()]
    assert states == ["committed", "removing", "removed"]
    assert removals.remove(an_order(tmp_path), NoJob(), 0)["state"] == "unchanged"
