"""The node code and the client of the control machine with recorded answers of Docker Engine 29."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import docker
import pytest
import yaml

from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.node_code import ProblemError, module_util, problem
from tests.playbooks.orders import REFERENCE, an_order

CASES = {case["name"]: case for case in yaml.safe_load(Path(__file__).with_name("engine_answers.yaml").read_text())}
COMPOSE_REFUSED = CASES["client of API 1.42"]["answer"]["message"]

engines, machine, precheck = module_util("docker.engine"), module_util("docker.machine"), module_util("seat.precheck")
cdi, pulls = module_util("gpu.cdi"), module_util("docker.pull")


def answering(monkeypatch: pytest.MonkeyPatch, engine: FakeEngine, *names: str) -> None:
    """Let the engine give these answers, also to requests that begin with a version of its API; 400 to any other."""
    wanted = {CASES[name]["path"].replace("REFERENCE", REFERENCE): CASES[name] for name in names}
    pull = wanted.pop("/images/create", None)
    engine.pulls = [pull["answer"]] * pulls.TRIES if pull else []

    def answer(_: str, path: str, __: Any) -> tuple[int, Any]:
        case = wanted.get(path) or wanted.get(f"/{path.split('/', 2)[-1]}") or CASES["client of API 1.42"]
        return case["status"], case["answer"]

    monkeypatch.setattr(engine, "answer", answer)


def compose(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Make a compose of this script the one of the node; return the file with the words that it was started with."""
    plugin, log = folder / "docker-compose", folder / "started"
    plugin.write_text(f'#!/bin/sh\necho "$@" >>{log}\n{script}\n')
    plugin.chmod(0o755)
    log.touch()
    monkeypatch.setattr(precheck, "compose_version", lambda: "2.3.3")
    monkeypatch.setattr(machine, "compose_program", lambda: ([str(plugin)], {}))
    return log


def test_a_compose_that_the_engine_refuses_is_named_before_anything_is_stopped(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, engine, "version of 29.1.2", "info with the store of a containerd service")
    log = compose(tmp_path, monkeypatch, f"echo 'Error response from daemon: {COMPOSE_REFUSED}' >&2; exit 1")
    with pytest.raises(ProblemError) as caught:
        precheck.check_engine()
    found = problem(caught)
    assert (found["code"], log.read_text()) == ("compose_without_engine", "compose ls --quiet\n")
    assert found["what"].startswith("compose 2.3.3 on the node cannot talk to its engine 29.2.0: ")
    assert COMPOSE_REFUSED in found["what"]


@pytest.mark.parametrize(("version", "asked"), [("version of 29.1.2", True), ("version of 29.3.0", False)])
def test_a_compose_that_the_engine_accepts_is_no_problem(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, asked: bool
) -> None:
    answering(monkeypatch, engine, version, "info with the store of a containerd service")
    log = compose(tmp_path, monkeypatch, "exit 0")
    assert precheck.check_engine()["ServerVersion"] == "29.2.0"
    assert bool(log.read_text()) == asked


@pytest.mark.parametrize(
    ("lowest", "asked"), [("1.12", False), ("1.24", False), ("1.41", False), ("1.42", True), ("2.0", True), ("", False)]
)
def test_compose_is_tried_only_where_an_engine_may_refuse_it(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lowest: str, asked: bool
) -> None:
    assert engine.requests == []
    log = compose(tmp_path, monkeypatch, "exit 0")
    assert machine.compose_refusal({"MinAPIVersion": lowest}) is None
    assert bool(log.read_text()) == asked


def test_a_compose_that_hangs_is_refused(engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.requests == []
    compose(tmp_path, monkeypatch, "sleep 60")
    monkeypatch.setattr(machine, "REFUSAL_SECONDS", 0.2)
    assert "timed out" in machine.compose_refusal({"MinAPIVersion": "1.44"})


def test_facts_of_the_engine_name_the_folder_of_containerd(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, engine, "info with the store of a containerd service")
    monkeypatch.setattr(machine, "compose_version", lambda: "2.40.3")
    facts, info, absent = machine.engine_facts()
    assert (facts["version"], facts["root_dir"], absent) == ("29.2.0", "/var/lib/docker", {})
    assert facts["image_store"].endswith("/containerd")
    assert cdi.toolkit_facts({**info, "CDISpecDirs": []}, [{"uuid": "GPU-1"}])["cdi_devices"] == []


def test_an_image_is_known_though_fields_are_left_out(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, engine, "image in containerd's store")
    assert engines.image(REFERENCE)["RootFS"]["Layers"] == ["sha256:1", "sha256:2"]
    assert not engines.is_incomplete(REFERENCE)


def test_an_image_without_its_configuration_counts_as_missing(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, engine, "image whose configuration is lost")
    assert engines.image(REFERENCE) is None
    assert engines.is_incomplete(REFERENCE)


def an_image() -> dict[str, Any]:
    return {"reference": REFERENCE, "tag": "t:1", "platform": "linux/amd64", "rootfs": [], "bytes": 150}


def test_the_progress_of_a_pull_is_read(tmp_path: Path, engine: FakeEngine) -> None:
    engine.pulls = [CASES["pull"]["answer"]]
    engine.brings = (REFERENCE, CASES["image in containerd's store"]["answer"])
    seen = list[tuple[Any, ...]]()
    pulls.pull(an_order(tmp_path, image=an_image()), lambda *news: seen.append(news))
    assert ("pulling", 50, 150) in seen
    assert seen[-1] == ("unpacking layer 2 of 2", 150, 150)


@pytest.mark.parametrize(
    ("pull", "said"),
    [
        ("pull that lacks content", "content digest sha256:51f5c6a0"),
        ("pull that finds unpacked layers and loads nothing", "its configuration is missing"),
    ],
)
def test_an_image_that_a_pull_does_not_complete_is_named_with_the_way_out(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, pull: str, said: str
) -> None:
    monkeypatch.setattr(pulls, "PAUSE", 0)
    answering(monkeypatch, engine, pull, "image whose configuration is lost", "version of 29.1.2")
    with pytest.raises(ProblemError) as caught:
        pulls.pull(an_order(tmp_path, image=an_image()), lambda *_: None)
    found = problem(caught)
    assert (found["code"], said in found["what"]) == ("image_incomplete", True)
    assert f"docker rmi -f {REFERENCE}" in found["fix"]


@pytest.mark.parametrize(("version", "api"), [("version of 29.1.2", "1.52"), ("version of 29.3.0", "1.54")])
def test_the_client_of_the_control_machine_speaks_the_api_of_the_engine(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, version: str, api: str
) -> None:
    answering(monkeypatch, engine, version)
    client = docker.from_env()
    try:
        assert (client.api.api_version, client.version()["Version"]) == (api, CASES[version]["answer"]["Version"])
    finally:
        client.close()
    assert engine.requests == ["GET /version", f"GET /v{api}/version"]


def test_requests_of_the_node_name_no_version_of_the_api(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine answers them in its newest one; a version that is fixed is refused when it is too old."""
    answering(monkeypatch, engine, "version of 29.1.2", "image in containerd's store")
    engines.get("/version")
    engines.image(REFERENCE)
    assert engine.requests == ["GET /version", f"GET /images/{quote(REFERENCE, safe='/:@')}/json"]
    with pytest.raises(ProblemError, match=r"Minimum supported API version is 1\.44"):
        engines.get("/v1.42/containers/json")


def test_every_answer_has_a_source() -> None:
    assert all(case["source"].startswith(("https://github.com/", "moby docker-v29")) for case in CASES.values())
