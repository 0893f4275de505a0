import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine, a_container, add_containers
from tests.playbooks.fake_nvml import a_gpu, a_process
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import REFERENCE, NoJob, an_order, with_seat
from tests.playbooks.people_seats import a_persons_seat

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


def test_seat_facts_of_a_committed_seat(tmp_path: Path, engine: FakeEngine) -> None:
    seat = a_committed_seat(tmp_path)
    add_containers(engine, a_container("ssh"))
    (fact,) = facts.seat_facts(str(tmp_path / "state"))
    assert fact == {
        "name": "demo-student",
        "lab": "demo",
        "kind": "",
        "generation": 3,
        "image": REFERENCE,
        "files": seat.files(3),
        "ports": {"ssh": 22000, "jupyter": 22001},
        "subnet": "10.213.0.0/28",
        "gpus": ["GPU-1"],
        "shared": False,
        "person": "",
        "environment": "",
        "uid": os.getuid(),
        "home": str(tmp_path / "homes/student"),
        "limits": None,
        "capacity": None,
        "host_key": "",
        "since": None,
        "stopped_on": None,
        "services": {"jupyter": "missing", "ssh": "healthy"},
        "state": "committed",
        "run": "r1",
        "previous": 0,
        "layer_bytes": 0,
        "at_work": ["the driver does not list GPU-1: its use is unknown"],
        "drift": [],
        "disk": None,
        "disk_limit": None,
        "home_fault": None,
    }


@pytest.mark.parametrize("health", ["healthy", "unhealthy"])
def test_a_fault_of_the_home_is_a_fact_while_the_seat_is_not_healthy(
    tmp_path: Path, engine: FakeEngine, health: str
) -> None:
    seat, fault = a_committed_seat(tmp_path), {"code": "home_fault", "what": "x", "why": "y", "fix": "z"}
    journals.Journal(seat.folder, "r2").append("committed", generation=3, home_fault=fault)
    add_containers(engine, a_container("jupyter", health), a_container("ssh"))
    (fact,) = facts.seat_facts(str(tmp_path / "state"))
    assert fact["home_fault"] == (None if health == "healthy" else fault)


@pytest.mark.parametrize(
    ("containers", "gpus", "expected"),
    [
        (["ssh"], [a_gpu("GPU-1", processes=[a_process(4242)])], ["GPU 0: pid 4242 python of li"]),
        (["ssh"], [a_gpu("GPU-2", processes=[a_process(4242)]), a_gpu("GPU-1")], []),
        (
            ["ssh"],
            [a_gpu("GPU-1", memory_used=2 << 30)],
            ["GPU 0: 2.1 GB are in use by a process that the driver does not list"],
        ),
        (["ssh"], [], ["the driver does not list GPU-1: its use is unknown"]),
        ([], [a_gpu("GPU-1", processes=[a_process(4242)])], []),  # no container of the seat runs
    ],
)
def test_at_work_lists_the_gpu_users_of_a_running_seat(
    tmp_path: Path, engine: FakeEngine, containers: list[str], gpus: list[Any], expected: list[str]
) -> None:
    a_committed_seat(tmp_path)
    add_containers(engine, *map(a_container, containers))
    (fact,) = facts.seat_facts(str(tmp_path / "state"), gpus)
    assert fact["at_work"] == expected


def test_a_seat_counts_as_running_if_the_engine_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_committed_seat(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such.sock")
    (fact,) = facts.seat_facts(str(tmp_path / "state"), [a_gpu("GPU-1", processes=[a_process(4242)])])
    assert fact["at_work"] == ["GPU 0: pid 4242 python of li"]


def test_previous_is_a_generation_whose_image_is_present(tmp_path: Path, engine: FakeEngine) -> None:
    seat = a_committed_seat(tmp_path)
    seat.write(2, an_order(tmp_path), {})
    assert facts.seat_facts(str(tmp_path / "state"))[0]["previous"] == 0
    engine.images[REFERENCE] = {"RootFS": {}}
    assert facts.seat_facts(str(tmp_path / "state"))[0]["previous"] == 2


def test_layer_bytes_is_the_size_of_the_writable_layers(tmp_path: Path, engine: FakeEngine) -> None:
    a_committed_seat(tmp_path)
    add_containers(engine, a_container("ssh"), a_container("jupyter"))
    for container, size in zip(engine.containers, (5 << 20, None), strict=True):
        container["SizeRw"] = size
    (fact,) = facts.seat_facts(str(tmp_path / "state"))
    assert fact["layer_bytes"] == 5 << 20


def a_seat_of(tmp_path: Path, name: str) -> Any:
    """Commit a seat of this name, with ports of its own."""
    port = 22000 + 2 * len(list(tmp_path.glob("state/seats/*")))
    order = with_seat(an_order(tmp_path), name=name, ports={"ssh": port, "jupyter": port + 1})
    seat = seats.seat_of(order)
    seat.make_folders()
    seat.write(1, order, {})
    seat.commit(1)
    return seat


def test_the_containers_of_sixty_seats_are_listed_as_often_as_those_of_one(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_util("seat.drift"), "_lost_gpus", lambda *_: [])
    for number in range(60):
        name = f"ml_p{number}"
        a_seat_of(tmp_path, name)
        both = [a_container(service, name=f"{name}-{service}-1") for service in ("jupyter", "ssh")]
        add_containers(engine, *both, seat=name)
    for number, container in enumerate(engine.containers):
        container["SizeRw"] = number
    found = facts.seat_facts(str(tmp_path / "state"))
    assert {fact["name"]: fact["layer_bytes"] for fact in found} == {f"ml_p{n}": 4 * n + 1 for n in range(60)}
    assert all(set(fact["services"].values()) == {"healthy"} for fact in found)
    lists = [request for request in engine.requests if request.startswith("GET /containers/json")]
    assert [("size=1" in request, "provisioner.seat" in request) for request in lists] == [(False, False), (True, True)]


@pytest.mark.parametrize("has_other", [True, False])
def test_containers_of_self_service_seats_are_not_measured_by_a_probe(
    tmp_path: Path, engine: FakeEngine, has_other: bool
) -> None:
    a_persons_seat(tmp_path, "ml_anna", kind="self_service", gpus=[])
    add_containers(engine, a_container("ssh", name="of-anna"), seat="ml_anna")
    if has_other:
        a_persons_seat(tmp_path, "ml_bob", gpus=[])
        add_containers(engine, a_container("ssh", name="of-bob"), seat="ml_bob")
    for container in engine.containers:
        container["SizeRw"] = 7
    found = {fact["name"]: fact["layer_bytes"] for fact in facts.seat_facts(str(tmp_path / "state"))}
    assert found == {"ml_anna": None, **({"ml_bob": 7} if has_other else {})}
    measured = [request for request in engine.requests if "size=1" in request]
    assert [("of-bob" in request, "of-anna" in request) for request in measured] == [(True, False)] * has_other


@pytest.mark.usefixtures("engine")
def test_the_seat_of_a_person_says_whose_it_is_and_that_its_gpus_are_shared(tmp_path: Path) -> None:
    order = with_seat(an_order(tmp_path), shared=True, person="2024012345")
    seat = seats.seat_of(order)
    seat.make_folders()
    seat.write(1, order, {})
    seat.commit(1)
    (fact,) = facts.seat_facts(str(tmp_path / "state"))
    assert (fact["person"], fact["shared"]) == ("2024012345", True)


def test_a_container_of_others_in_the_project_of_a_seat_is_no_part_of_its_size(
    tmp_path: Path, engine: FakeEngine
) -> None:
    a_committed_seat(tmp_path)
    add_containers(engine, a_container("ssh"))
    add_containers(engine, a_container("web", name="theirs"), own={})
    add_containers(engine, a_container("ssh", name="elsewhere"), seat="other")
    engine.containers.append({"Id": "bare", "Names": ["/bare"], "Labels": None, "State": "running", "SizeRw": 9})
    for container in engine.containers:
        container["SizeRw"] = 7
    assert {fact["name"]: fact["layer_bytes"] for fact in facts.seat_facts(str(tmp_path / "state"))} == {
        "demo-student": 7,
        "other": 7,
    }


def test_sizes_that_the_engine_does_not_report_leave_the_other_facts_as_they_are(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_committed_seat(tmp_path)
    add_containers(engine, a_container("ssh"))
    answer = engine.answer
    monkeypatch.setattr(
        engine, "answer", lambda *words: (500, {"message": "busy"}) if "size" in words[2] else answer(*words)
    )
    (fact,) = facts.seat_facts(str(tmp_path / "state"), [a_gpu("GPU-1")])
    assert (fact["layer_bytes"], fact["at_work"]) == (None, [])
    assert fact["services"] == {"jupyter": "missing", "ssh": "healthy"}


def test_a_seat_whose_container_cannot_be_described_does_not_hide_the_services_of_others(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("aaa", "bbb"):
        a_seat_of(tmp_path, name)
        add_containers(engine, a_container("ssh", name=f"{name}-ssh-1"), seat=name)
    answer = engine.answer
    monkeypatch.setattr(
        engine, "answer", lambda *words: (500, {"message": "no"}) if "aaa-ssh-1" in words[1] else answer(*words)
    )
    failing, well = facts.seat_facts(str(tmp_path / "state"))
    assert failing["services"] == {"jupyter": "unknown", "ssh": "unknown"}
    assert well["services"] == {"jupyter": "missing", "ssh": "healthy"}


def test_a_stopped_container_does_not_hold_the_port_of_a_seat(tmp_path: Path, engine: FakeEngine) -> None:
    a_committed_seat(tmp_path)
    add_containers(engine, a_container("ssh", Status="exited"))
    add_containers(engine, a_container("web", name="web"), seat="web", own={})
    engine.containers[1] |= {"Ports": [{"IP": "0.0.0.0", "PublicPort": 22001}]}
    state_root = str(tmp_path / "state")
    assert [found["code"] for found in facts.seat_facts(state_root)[0]["drift"]] == ["foreign_on_port"]
    engine.containers[1]["State"] = "exited"
    assert facts.seat_facts(state_root)[0]["drift"] == []


def test_a_damaged_seat_keeps_its_other_facts(tmp_path: Path, engine: FakeEngine) -> None:
    seat = a_committed_seat(tmp_path)
    add_containers(engine, a_container("ssh"))
    (seat.generation(3) / "order.json").unlink()
    (fact,) = facts.seat_facts(str(tmp_path / "state"))
    assert (fact["state"], fact["generation"], fact["ports"]) == ("damaged", 3, {"ssh": 22000})


def test_a_seat_whose_records_cannot_be_read_does_not_hide_the_others(tmp_path: Path, engine: FakeEngine) -> None:
    a_committed_seat(tmp_path)
    add_containers(engine, a_container("ssh"))
    (tmp_path / "state/seats/notes").write_text("a file of somebody else")
    (tmp_path / "state/seats/aaa/current").mkdir(parents=True)
    damaged, healthy = facts.seat_facts(str(tmp_path / "state"))
    assert (damaged["name"], damaged["state"], damaged["generation"]) == ("aaa", "damaged", 0)
    assert damaged["drift"][0]["code"] == "seat_damaged"
    assert (healthy["name"], healthy["state"]) == ("demo-student", "committed")


def test_kept_images_lists_an_unreadable_order_as_unknown(tmp_path: Path) -> None:
    assert facts.kept_images(str(tmp_path / "state")) == []
    seat = a_committed_seat(tmp_path)
    order = an_order(tmp_path)
    older = order | {"image": order["image"] | {"reference": REFERENCE.replace("a" * 64, "b" * 64)}}
    seat.write(2, older, {})
    assert facts.kept_images(str(tmp_path / "state")) == [REFERENCE, older["image"]["reference"]]
    (seat.generation(2) / "order.json").write_text("{")
    assert facts.kept_images(str(tmp_path / "state")) == [REFERENCE, "unknown"]


def test_a_seat_without_a_record_is_listed_with_its_ports(tmp_path: Path, engine: FakeEngine) -> None:
    add_containers(engine, a_container("ssh"), seat="demo-lost")
    (fact,) = facts.seat_facts(str(tmp_path))
    assert (fact["name"], fact["generation"], fact["state"]) == ("demo-lost", 0, "unrecorded")
    assert fact["ports"] == {"ssh": 22000}


@pytest.mark.parametrize(("state", "listed"), [("staged", False), ("removed", False), ("verifying", True)])
@pytest.mark.usefixtures("engine")
def test_a_seat_without_a_current_generation_is_listed_only_during_a_switch(
    tmp_path: Path, state: str, listed: bool
) -> None:
    seat = seats.seat_of(an_order(tmp_path))
    seat.make_folders()
    journals.Journal(seat.folder, "r1").append(state)
    assert [fact["state"] for fact in facts.seat_facts(str(tmp_path / "state"))] == ([state] if listed else [])


def test_services_are_unknown_without_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_needs_attention_ends_when_the_seat_is_healthy_or_removed(
    state: str, generation: int, services: dict[str, str], needed: bool
) -> None:
    problem = facts.attention_problem({"name": "s", "state": state, "generation": generation, "services": services})
    assert (problem is not None) == needed


@pytest.mark.usefixtures("ran")
def test_a_stopped_seat_keeps_its_current_generation(tmp_path: Path, engine: FakeEngine) -> None:
    seat = a_committed_seat(tmp_path)
    add_containers(engine, a_container("ssh"))
    record = removals.stop(an_order(tmp_path), NoJob(), 0)
    assert (record["state"], record["generation"]) == ("committed", 3)
    assert seat.current() == 3
    engine.containers.clear()
    (fact,) = facts.seat_facts(str(tmp_path / "state"))
    assert (fact["state"], fact["stopped_on"]) == ("stopped", journals.now()[:10])
    assert removals.stop(an_order(tmp_path), NoJob(), 0)["state"] == "unchanged"


@pytest.mark.usefixtures("ran")
def test_a_seat_in_use_is_removed_only_by_force(tmp_path: Path, engine: FakeEngine, idle: list[Any]) -> None:
    seat = a_committed_seat(tmp_path)
    add_containers(engine, a_container("ssh"))
    idle[0]["processes"] = [a_process(4242)]
    when_busy = {"policy": "defer", "seconds": 0, "reason": ""}
    with pytest.raises(ProblemError, match="pid 4242 python of li"):
        removals.remove(an_order(tmp_path, when_busy=when_busy), NoJob(), 0)
    assert (seat.current(), len(engine.containers)) == (3, 1)
    forced = an_order(tmp_path, when_busy={**when_busy, "policy": "force", "reason": "the term is over"})
    assert removals.remove(forced, NoJob(), 0)["state"] == "committed"
    states = [line["state"] for line in journals.Journal(seat.folder, "r1").lines()]
    assert states == ["committed", "forced", "removing", "removed"]


@pytest.mark.usefixtures("ran")
def test_a_removed_seat_keeps_only_identity_and_home(tmp_path: Path, engine: FakeEngine) -> None:
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
