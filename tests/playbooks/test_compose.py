import json
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.node_code import Fault, module_util
from tests.playbooks.orders import REFERENCE, an_order

composes, seats, facts, removing = (module_util(name) for name in ("compose", "seat", "seats", "removing"))
journals = module_util("journal")


def a_container(service: str, health: str | None = "healthy", name: str = "", **over: Any) -> dict[str, Any]:
    """As the engine inspects it. `over`: Status, RestartCount, StartedAt."""
    state = {"Status": over.get("Status", "running"), "StartedAt": over.get("StartedAt", "t0")}
    return {
        "Id": name or service,
        "Name": f"/{name or service}",
        "State": state | ({"Health": {"Status": health}} if health else {}),
        "RestartCount": over.get("RestartCount", 0),
        "HostConfig": {"PortBindings": {"2222/tcp": [{"HostIp": "127.0.0.1", "HostPort": "22000"}]}},
        "service": service,
    }


def put(engine: FakeEngine, *containers: dict[str, Any], seat: str = "demo-student") -> None:
    for container in containers:
        labels = {
            "com.docker.compose.project": seat,
            "com.docker.compose.service": container["service"],
            "provisioner.seat": seat,
        }
        listed = {"Id": container["Id"], "Names": [container["Name"]], "Labels": labels}
        engine.containers.append(listed | {"State": container["State"]["Status"]})
        engine.inspected[container["Id"]] = container


@pytest.fixture
def compose(tmp_path: Path) -> Any:
    seat = seats.seat_of(an_order(tmp_path))
    seat.make_folders()
    (seat.identity / "token").write_text("secret-token")
    return composes.Compose(seat)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands, none of which is run."""
    calls: list[list[str]] = []

    def run(argv: list[str], *_: Any, **__: Any) -> Any:
        calls.append(argv)
        return module_util("host").Ran(0, "the url is http://x/?token=secret-token \x1b[2J\n", "")

    monkeypatch.setattr(composes, "run", run)
    return calls


@pytest.mark.parametrize(
    ("container", "state"),
    [
        (None, "missing"),
        (a_container("ssh"), "healthy"),
        (a_container("ssh", "starting"), "running"),
        (a_container("ssh", None), "running"),
        (a_container("ssh", "starting", RestartCount=1), "restarting"),
        (a_container("ssh", "unhealthy"), "unhealthy"),
        (a_container("ssh", "starting", Status="exited"), "exited"),
        (a_container("ssh", "starting", Status="restarting"), "restarting"),
    ],
)
def test_the_state_of_a_container_in_a_word(container: dict[str, Any] | None, state: str) -> None:
    assert composes.state_of(container) == state


@pytest.mark.usefixtures("engine")
def test_compose_is_told_everything_and_asked_nothing(compose: Any, ran: list[list[str]]) -> None:
    compose.up(7)
    compose.down()
    up, down = ran
    folder = str(compose.seat.generation(7))
    assert up[:6] == ["docker", "compose", "--ansi", "never", "--env-file", "/dev/null"]
    assert up[6:12] == ["--project-directory", folder, "-f", f"{folder}/compose.yaml", "-p", "demo-student"]
    assert up[12:] == ["up", "-d", "--remove-orphans", "--no-build", "--pull", "never"]
    assert down[6:] == ["-p", "demo-student", "down", "--remove-orphans"]
    assert not {"-y", "-v", "--volumes", "--rmi"} & {*up, *down}


@pytest.mark.usefixtures("ran")
def test_only_a_stopped_leftover_of_our_own_is_removed(engine: FakeEngine, compose: Any) -> None:
    put(engine, a_container("ssh", Status="created", name="0123456789ab_demo-student-ssh-1"))
    put(engine, a_container("ssh", Status="running", name="ba9876543210_demo-student-ssh-1"))
    put(engine, a_container("jupyter", Status="exited", name="demo-student-jupyter-1"))
    put(engine, a_container("x", Status="exited", name="0123456789ab_other-x-1"), seat="other")
    compose.up(1)
    deleted = [request for request in engine.requests if request.startswith("DELETE")]
    assert deleted == ["DELETE /containers/0123456789ab_demo-student-ssh-1"]


def test_it_waits_until_all_are_healthy_and_tells_what_it_sees(engine: FakeEngine, compose: Any) -> None:
    put(engine, a_container("jupyter", "starting"), a_container("ssh"))
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        engine.inspected["jupyter"] = a_container("jupyter")

    compose.wait_healthy(float("inf"), tell)
    assert told == ["jupyter is running, ssh is healthy"]


@pytest.mark.parametrize("container", [a_container("ssh", "unhealthy"), a_container("ssh", None)])
@pytest.mark.usefixtures("ran")
def test_at_the_deadline_it_says_what_is_not_healthy(
    engine: FakeEngine, compose: Any, container: dict[str, Any]
) -> None:
    put(engine, a_container("jupyter"), container)
    with pytest.raises(Fault, match="the seat is not healthy: ssh is") as caught:
        compose.wait_healthy(0, lambda _: None)
    why = caught.value.problem["why"]  # type: ignore[attr-defined]
    assert "the url is http://x/?token=…" in why
    assert "secret-token" not in why
    assert "\x1b" not in why


@pytest.mark.usefixtures("ran")
def test_a_start_that_is_hopeless_is_not_waited_for(engine: FakeEngine, compose: Any) -> None:
    put(engine, a_container("jupyter"), a_container("ssh", "starting", RestartCount=3))
    with pytest.raises(Fault, match="ssh is restarting"):
        compose.wait_healthy(float("inf"), lambda _: None)


@pytest.mark.usefixtures("ran")
def test_staying_healthy_means_the_same_containers_all_the_time(
    engine: FakeEngine, compose: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(engine, a_container("jupyter"), a_container("ssh"))
    compose.stay_healthy(0.01)

    def change(_seconds: float) -> None:
        engine.inspected["ssh"] = a_container("ssh", StartedAt="t1")

    monkeypatch.setattr(composes.time, "sleep", change)
    with pytest.raises(Fault, match="ssh is restarting"):
        compose.stay_healthy(60)


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
    }


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
    problem = facts.attention({"name": "s", "state": state, "generation": generation, "services": services})
    assert (problem is not None) == needed


class NoJob:
    def tell(self, *_: Any, **__: Any) -> None:
        """Nobody listens."""


@pytest.mark.usefixtures("ran")
def test_a_stopped_seat_can_come_back_as_it_was(tmp_path: Path, engine: FakeEngine) -> None:
    seat = a_committed_seat(tmp_path)
    put(engine, a_container("ssh"))
    record = removing.stop(an_order(tmp_path), NoJob(), 0)
    assert (record["state"], record["generation"]) == ("committed", 3)
    assert seat.current() == 3
    engine.containers.clear()
    assert removing.stop(an_order(tmp_path), NoJob(), 0)["state"] == "unchanged"


@pytest.mark.usefixtures("ran")
def test_a_removed_seat_keeps_identity_and_home_alone(tmp_path: Path, engine: FakeEngine) -> None:
    seat = a_committed_seat(tmp_path)
    module_util("precheck").ensure_home(Path(an_order(tmp_path)["seat"]["home"]), 0, 0)
    (seat.identity / "token").write_text("kept")
    engine.images[REFERENCE] = {"RepoTags": [f"provisioner/keep:{seat.tag(3)}"]}
    assert removing.remove(an_order(tmp_path), NoJob(), 0)["state"] == "committed"
    assert (seat.current(), seat.numbers(), engine.images) == (0, [], {})
    assert (seat.identity / "token").read_text() == "kept"
    assert (tmp_path / "homes/student").is_dir()
    states = [json.loads(line)["state"] for line in (seat.folder / "journal.jsonl").read_text().splitlines()]
    assert states == ["committed", "removing", "removed"]
    assert removing.remove(an_order(tmp_path), NoJob(), 0)["state"] == "unchanged"
