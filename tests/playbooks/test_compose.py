import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.playbooks.fake_engine import FakeEngine, a_container, add_containers
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import NoJob, an_order

composes, seats, removals, engines = (
    module_util(name) for name in ("seat.compose", "seat.seat", "transaction.remove", "docker.engine")
)


@pytest.fixture
def compose(tmp_path: Path) -> Any:
    seat = seats.seat_of(an_order(tmp_path))
    seat.make_folders()
    (seat.identity / "token").write_text("secret-token")
    return composes.Compose(seat)


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
def test_service_state_of_a_container(container: dict[str, Any] | None, state: str) -> None:
    assert composes.service_state(container) == state


@pytest.mark.usefixtures("engine")
def test_compose_commands_name_every_file_and_never_answer_yes(compose: Any, ran: list[list[str]]) -> None:
    compose.up(7)
    compose.down()
    up, down = ran
    folder = str(compose.seat.generation(7))
    assert up[:6] == ["docker", "compose", "--ansi", "never", "--env-file", "/dev/null"]
    assert up[6:12] == ["--project-directory", folder, "-f", f"{folder}/compose.yaml", "-p", "demo-student"]
    assert up[12:] == ["up", "-d", "--remove-orphans", "--no-build", "--pull", "never"]
    assert down[6:] == ["-p", "demo-student", "down", "--remove-orphans"]
    assert not {"-y", "-v", "--volumes", "--rmi"} & {*up, *down}


@pytest.mark.usefixtures("engine")
def test_compose_is_started_without_docker_where_it_is_found(compose: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    def run(argv: list[str], *_: Any, env: dict[str, str], **__: Any) -> Any:
        started.append((argv[:4], env))
        return module_util("base.command").CommandResult(0, "", "")

    monkeypatch.setattr(composes, "run", run)
    monkeypatch.setattr(composes, "compose_program", lambda: (["/plugins/docker-compose"], {"STARTED": "docker"}))
    compose.check(1)
    ((argv, environment),) = started
    assert argv == ["/plugins/docker-compose", "compose", "--ansi", "never"]
    assert (environment["STARTED"], environment["DOCKER_HOST"][:7]) == ("docker", "unix://")


STARTED_FROM = "com.docker.compose.project.working_dir"


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {STARTED_FROM: "/srv/web"},
        {"provisioner.seat": "demo-student", STARTED_FROM: "/home/ann/provisioner/seats/demo-student/gens/1"},
    ],
    ids=["no folder", "another project", "the seat of another state root"],
)
def test_a_project_of_others_with_the_name_of_a_seat_is_not_touched(
    engine: FakeEngine, compose: Any, ran: list[list[str]], tmp_path: Path, labels: dict[str, str]
) -> None:
    add_containers(engine, a_container("web"), own=labels)
    for act in (compose.check_ours, lambda: compose.up(1)):
        with pytest.raises(ProblemError, match="a container that is not the seat's: web"):
            act()
    compose.down()
    for act in (removals.stop, removals.remove):
        assert act(an_order(tmp_path), NoJob(), 0)["state"] == "unchanged"
    add_containers(engine, a_container("ssh"))
    for act in (removals.stop, removals.remove, lambda *_: compose.down()):
        with pytest.raises(ProblemError, match="a container that is not the seat's: web"):
            act(an_order(tmp_path), NoJob(), 0)
    assert not (compose.seat.folder / "journal.jsonl").exists()
    assert (ran, [request for request in engine.requests if request.startswith("DELETE")]) == ([], [])


def test_containers_of_the_seat_are_its_own_whichever_file_they_were_started_from(
    engine: FakeEngine, compose: Any, ran: list[list[str]]
) -> None:
    for folder in ("/root/copy", str(compose.seat.generation(3))):
        add_containers(engine, a_container("ssh"), own={"provisioner.seat": "demo-student", STARTED_FROM: folder})
    compose.check_ours()
    compose.down()
    assert len(ran) == 1


@pytest.mark.usefixtures("ran")
def test_start_removes_only_stopped_leftovers_of_the_seat(engine: FakeEngine, compose: Any) -> None:
    add_containers(engine, a_container("ssh", Status="created", name="0123456789ab_demo-student-ssh-1"))
    add_containers(engine, a_container("ssh", Status="running", name="ba9876543210_demo-student-ssh-1"))
    add_containers(engine, a_container("jupyter", Status="exited", name="demo-student-jupyter-1"))
    add_containers(engine, a_container("x", Status="exited", name="0123456789ab_other-x-1"), seat="other")
    compose.up(1)
    deleted = [request for request in engine.requests if request.startswith("DELETE")]
    assert deleted == ["DELETE /containers/0123456789ab_demo-student-ssh-1"]


def test_networks_that_no_container_uses_are_removed(engine: FakeEngine, compose: Any) -> None:
    engine.networks = [
        {"Id": "1", "Name": "demo-student_default", "Containers": {}},
        {"Id": "2", "Name": "demo-student_seat", "Containers": {"c": {}}},
        {"Id": "3", "Name": "demo-student_other", "Containers": {}},
    ]
    add_containers(engine, a_container("ssh", Status="restarting"))
    engine.containers[0]["NetworkSettings"] = {"Networks": {"demo-student_other": {}}}
    compose.remove_unused_networks()
    assert [network["Id"] for network in engine.networks] == ["2", "3"]


@pytest.mark.usefixtures("ran")
def test_start_removes_unused_networks_of_a_duplicate_name(engine: FakeEngine, compose: Any) -> None:
    engine.networks = [
        {"Id": "1", "Name": "demo-student_default", "Containers": {}},
        {"Id": "2", "Name": "demo-student_default", "Containers": {"c": {}}},
        {"Id": "3", "Name": "demo-student_other", "Containers": {}},
    ]
    compose.up(1)
    assert [network["Id"] for network in engine.networks] == ["2", "3"]
    assert any("filters=" in request and "demo-student" in request for request in engine.requests)


@pytest.mark.usefixtures("_short_waits")
def test_wait_healthy_reports_states_until_all_services_are_healthy(engine: FakeEngine, compose: Any) -> None:
    add_containers(engine, a_container("jupyter", "starting"), a_container("ssh"))
    reports: list[str] = []

    def report(text: str) -> None:
        reports.append(text)
        engine.inspected["jupyter"] = a_container("jupyter")

    compose.wait_healthy(float("inf"), report)
    assert reports == ["jupyter is running, ssh is healthy"]


@pytest.mark.parametrize("container", [a_container("ssh", "unhealthy"), a_container("ssh", None)])
@pytest.mark.usefixtures("ran")
def test_wait_healthy_names_unhealthy_services_at_the_deadline(
    engine: FakeEngine, compose: Any, container: dict[str, Any]
) -> None:
    add_containers(engine, a_container("jupyter"), container)
    with pytest.raises(ProblemError, match="the seat is not healthy: ssh is") as caught:
        compose.wait_healthy(0, lambda _: None)
    why = caught.value.problem["why"]  # type: ignore[attr-defined]
    assert "the url is http://x/?token=…" in why
    assert "secret-token" not in why
    assert "\x1b" not in why


@pytest.mark.usefixtures("ran")
def test_wait_healthy_fails_at_once_if_a_container_keeps_restarting(engine: FakeEngine, compose: Any) -> None:
    add_containers(engine, a_container("jupyter"), a_container("ssh", "starting", RestartCount=3))
    with pytest.raises(ProblemError, match="ssh is restarting"):
        compose.wait_healthy(float("inf"), lambda _: None)


@pytest.fixture
def events(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue[bytes | None]]:
    """The stream of events of the engine. Without an event, the next look at the containers comes after a minute."""
    monkeypatch.setattr(engines, "EVENT_SECONDS", 60)
    engine.events = Queue()
    yield engine.events
    engine.events.put(None)


def test_wait_healthy_looks_again_at_an_event(engine: FakeEngine, compose: Any, events: Queue[bytes | None]) -> None:
    add_containers(engine, a_container("jupyter", "starting"), a_container("ssh"))

    def report(_: str) -> None:
        engine.inspected["jupyter"] = a_container("jupyter")
        events.put(b'{"status":"health_status: healthy"}\n')

    begun = time.monotonic()
    compose.wait_healthy(begun + 50, report)
    assert time.monotonic() - begun < 10
    (asked,) = [request for request in engine.requests if "/events" in request]
    assert json.loads(parse_qs(urlsplit(asked).query)["filters"][0])["label"] == [
        "com.docker.compose.project=demo-student"
    ]


@pytest.mark.usefixtures("ran")
def test_stay_healthy_sees_a_restart_at_its_event(
    engine: FakeEngine, compose: Any, events: Queue[bytes | None]
) -> None:
    add_containers(engine, a_container("jupyter"), a_container("ssh"))

    def restart() -> None:
        engine.inspected["ssh"] = a_container("ssh", StartedAt="t1")
        events.put(b'{"status":"die"}\n')

    timer = threading.Timer(0.3, restart)
    timer.start()
    with pytest.raises(ProblemError, match="ssh is restarting"):
        compose.stay_healthy(50)
    timer.join()


@pytest.mark.usefixtures("_short_waits")
def test_wait_healthy_goes_on_where_the_stream_of_events_ends(
    engine: FakeEngine, compose: Any, events: Queue[bytes | None]
) -> None:
    """As when the engine is restarted."""
    add_containers(engine, a_container("jupyter", "starting"), a_container("ssh"))
    events.put(None)
    threading.Timer(0.3, lambda: engine.inspected.update(jupyter=a_container("jupyter"))).start()
    begun = time.monotonic()
    compose.wait_healthy(begun + 50, lambda _: None)
    assert time.monotonic() - begun < 10


def test_an_event_that_is_lost_costs_no_more_than_the_pause(
    engine: FakeEngine, compose: Any, events: Queue[bytes | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "EVENT_SECONDS", 0.1)
    add_containers(engine, a_container("jupyter", "starting"), a_container("ssh"))
    compose.wait_healthy(time.monotonic() + 50, lambda _: engine.inspected.update(jupyter=a_container("jupyter")))
    assert events.empty()


@pytest.mark.usefixtures("ran")
def test_stay_healthy_fails_if_a_container_was_restarted(
    engine: FakeEngine, compose: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_containers(engine, a_container("jupyter"), a_container("ssh"))
    compose.stay_healthy(0.01)

    def change(_seconds: float) -> None:
        engine.inspected["ssh"] = a_container("ssh", StartedAt="t1")

    monkeypatch.setattr(composes.time, "sleep", change)
    with pytest.raises(ProblemError, match="ssh is restarting"):
        compose.stay_healthy(60)


@pytest.mark.parametrize(("seconds", "code"), [(30, 0), (30, 1), (30, None), (29, 1)])
def test_stay_healthy_runs_the_health_checks_again_after_a_long_time(
    engine: FakeEngine, compose: Any, monkeypatch: pytest.MonkeyPatch, seconds: int, code: int | None
) -> None:
    """The engine's own next checks come after up to five minutes."""
    for service in ("jupyter", "ssh"):
        container = a_container(service)
        container["Config"] = {"Healthcheck": {"Test": ["CMD", "python3", "-I", "/health.py", service]}}
        add_containers(engine, container)
    commands, now = list[list[str]](), [0.0]
    monkeypatch.setattr(composes.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(composes.time, "sleep", lambda slept: now.__setitem__(0, now[0] + slept))

    def run(argv: list[str], *_: Any, **__: Any) -> Any:
        commands.append(argv)
        return module_util("base.command").CommandResult(code if argv[-1] == "ssh" else 0, "", "")

    monkeypatch.setattr(composes, "run", run)
    if seconds == 30 and code != 0:
        with pytest.raises(ProblemError, match="ssh is unhealthy"):
            compose.stay_healthy(seconds)
    else:
        compose.stay_healthy(seconds)
    checks = [["docker", "exec", name, "python3", "-I", "/health.py", name] for name in ("jupyter", "ssh")]
    assert [argv for argv in commands if "exec" in argv] == (checks if seconds == 30 else [])


@pytest.mark.usefixtures("engine", "ran")
def test_logs_are_withheld_if_the_token_to_mask_cannot_be_read(compose: Any, engine: FakeEngine) -> None:
    add_containers(engine, a_container("jupyter"))
    (compose.seat.identity / "token").unlink()
    (compose.seat.identity / "token").mkdir()
    assert "secret-token" not in compose.logs()
    assert "the logs are withheld" in compose.logs()


@pytest.mark.usefixtures("engine")
def test_empty_home_replaces_the_mount_of_the_home_and_puts_it_back(
    compose: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], Any]] = []

    def run(argv: list[str], *_: Any, **__: Any) -> Any:
        added = [Path(word) for word in argv if word.endswith("empty-home.json")]
        started.append((argv, json.loads(added[0].read_text()) if added else None))
        return module_util("base.command").CommandResult(0, "", "")

    monkeypatch.setattr(composes, "run", run)
    seat = an_order(compose.seat.folder)["seat"]
    with compose.empty_home(7, seat):
        ((argv, override),) = started
        assert argv.index("-f") < argv.index("up")
        for service in ("jupyter", "ssh"):
            (mount,) = override["services"][service]["volumes"]
            assert mount["target"] == "/home/student"
            owner = Path(mount["source"]).stat()
            assert (owner.st_uid, owner.st_mode & 0o777, list(Path(mount["source"]).iterdir())) == (
                seat["uid"],
                0o700,
                [],
            )
    assert started[1][1] is None
    assert not list(compose.seat.folder.glob("verify-*"))


def test_a_program_in_a_container_is_not_changed_by_files_of_the_home(tmp_path: Path) -> None:
    """usercustomize.py, a module of the same name in the current folder, and PYTHON* variables."""
    packages = Path(
        subprocess.check_output(
            ["python3", "-c", "import site; print(site.USER_SITE)"],
            env={"PATH": os.environ["PATH"], "PYTHONUSERBASE": str(tmp_path)},
            text=True,
        ).strip()
    )
    packages.mkdir(parents=True)
    for path in (packages / "usercustomize.py", tmp_path / "json.py", tmp_path / "start.py"):
        path.write_text("print('forged'); raise SystemExit")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONUSERBASE": str(tmp_path)}
    environment |= {"PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "start.py")}
    argv = composes.exec_python("c1", "1000:1000")
    program = argv[argv.index("c1") + 1 :]
    assert "HOME=/nonexistent" in argv
    asked = subprocess.run(
        program,
        input="import json; print(json.dumps(1))",
        cwd=tmp_path,
        env=environment,
        stdout=-1,
        text=True,
        check=True,
    )
    assert asked.stdout == "1\n"


def test_stop_and_restart_name_the_project_and_remove_nothing(
    compose: Any, engine: FakeEngine, ran: list[list[str]]
) -> None:
    compose.stop()
    compose.restart("jupyter")
    assert ran == []
    add_containers(engine, a_container("jupyter"), a_container("ssh"))
    compose.stop()
    compose.restart("jupyter")
    assert [words[6:] for words in ran] == [
        ["-p", "demo-student", "stop"],
        ["-p", "demo-student", "restart", "jupyter"],
    ]


def test_containers_of_others_are_not_stopped(compose: Any, engine: FakeEngine, ran: list[list[str]]) -> None:
    add_containers(engine, a_container("web"), own={})
    compose.stop()
    compose.restart("web")
    assert ran == []


def test_the_log_of_one_service_is_that_of_its_container(
    compose: Any, engine: FakeEngine, ran: list[list[str]]
) -> None:
    add_containers(engine, a_container("jupyter"), a_container("ssh"))
    text = compose.logs(7, "ssh")
    assert ran == [["docker", "logs", "--tail", "7", "ssh"]]
    assert "secret-token" not in text
    assert "\x1b" not in text
