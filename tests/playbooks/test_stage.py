import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import REFERENCE, an_order, with_seat

stages, seats, journals, command = (
    module_util(name) for name in ("transaction.stage", "seat.seat", "seat.journal", "base.command")
)
precheck, composes, trials = (module_util(name) for name in ("seat.precheck", "seat.compose", "docker.trial"))

PASSWD = "root:x:0:0:root:/root:/bin/bash\n"
ACCOUNTS = f"{PASSWD}{trials.MARK}root:x:0:\n"


class Reports(list[str]):
    def report(self, text: str, *_: Any, **__: Any) -> None:
        self.append(text)


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch, engine: FakeEngine) -> list[list[str]]:
    """Calls of the docker command, answered as with an image that starts; the engine can pull it."""
    calls: list[list[str]] = []

    def run(argv: list[str], *_: Any, **__: Any) -> Any:
        calls.append(argv)
        return command.CommandResult(0, ACCOUNTS if argv[-1] == "/etc/group" else "", "")

    for module in (trials, composes):
        monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(precheck, "compose_version", lambda: "2.26.1")
    engine.pulls, engine.brings = [[]], (REFERENCE, {"RootFS": {"Layers": []}})
    return calls


def stage(order: dict[str, Any]) -> dict[str, Any]:
    seats.seat_of(order).make_folders()
    record: dict[str, Any] = stages.stage(order, Reports(), 0, {})
    return record


@pytest.mark.usefixtures("docker")
def test_stage_writes_a_generation_without_committing_it(tmp_path: Path, engine: FakeEngine) -> None:
    order = an_order(tmp_path)
    assert stage(order) == {"state": "staged", "generation": 1}
    seat = seats.seat_of(order)
    assert (seat.numbers(), seat.current()) == ([1], 0)
    first = (seat.generation(1) / "passwd").read_text().splitlines()[0]
    assert first == f"student:x:{os.getuid()}:{os.getgid()}:student:/home/student:/bin/bash"
    assert (seat.identity / "token").exists()
    assert engine.images[REFERENCE]["RepoTags"] == ["provisioner/keep:demo-student-g1"]
    assert [line["state"] for line in journals.Journal(seat.folder, "r1").lines()] == ["staged"]


def test_the_trial_container_has_no_capabilities_network_or_gpu(tmp_path: Path, docker: list[list[str]]) -> None:
    stage(an_order(tmp_path))
    trial = " ".join(next(argv for argv in docker if argv[:2] == ["docker", "run"]))
    for words in ("--cap-drop ALL", "--security-opt no-new-privileges", f"--user {os.getuid()}:{os.getgid()}"):
        assert words in trial
    for words in ("--network none", "NVIDIA_VISIBLE_DEVICES=void", "--pull never", f"--entrypoint cat {REFERENCE}"):
        assert words in trial


def trials_of(docker: list[list[str]]) -> int:
    return sum(argv[:2] == ["docker", "run"] for argv in docker)


OTHER = REFERENCE.replace("a" * 64, "b" * 64)


@pytest.mark.parametrize(
    ("second", "boot", "containers"),
    [
        ({}, "b1", 0),
        ({"run": "r2"}, "b1", 1),
        ({}, "b2", 1),
        ({}, "", 1),
        ({"image": {"reference": OTHER, "tag": "t:2", "platform": "linux/amd64", "rootfs": [], "bytes": 0}}, "b1", 1),
    ],
)
def test_the_seats_of_a_run_try_an_image_once_until_the_node_starts_anew(  # noqa: PLR0913, PLR0917  (fixtures, a case)
    tmp_path: Path,
    docker: list[list[str]],
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    second: dict[str, Any],
    boot: str,
    containers: int,
) -> None:
    monkeypatch.setattr(trials, "boot_id", lambda: "b1" if boot else "")
    stage(an_order(tmp_path))
    assert trials_of(docker) == 1
    monkeypatch.setattr(trials, "boot_id", lambda: boot)
    engine.images[OTHER] = {"RootFS": {"Layers": []}}
    other = {"name": "demo_ann", "user": "ann", "ports": {"ssh": 22002, "jupyter": 22003}, "subnet": "10.213.0.16/28"}
    order = with_seat(an_order(tmp_path, **second), **other)
    assert stage(order)["state"] == "staged"
    assert trials_of(docker) - 1 == containers
    names = [line.split(":")[0] for line in (seats.seat_of(order).generation(1) / "passwd").read_text().splitlines()]
    assert names == ["ann", "root"][: 2 - (os.getuid() == 0)]


def test_seats_of_the_broker_try_an_image_once_whoever_asks_for_them(
    tmp_path: Path, docker: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "boot_id", lambda: "b1")
    for number, (run, sender) in enumerate([("me-1", "broker"), ("me-2", "broker"), ("r1", None)]):
        ports, subnet = {"ssh": 22000 + 2 * number, "jupyter": 22001 + 2 * number}, f"10.213.0.{16 * number}/28"
        order = with_seat(an_order(tmp_path, run, by=sender), name=f"demo_{number}", ports=ports, subnet=subnet)
        assert stage(order)["state"] == "staged"
    assert trials_of(docker) == 2  # the first one, and that of a run of the control machine


@pytest.mark.parametrize("text", ["", "{", "[]", '{"image": 1}'])
def test_a_damaged_record_of_a_trial_is_replaced(tmp_path: Path, docker: list[list[str]], text: str) -> None:
    path = tmp_path / "state/node/trial.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    stage(an_order(tmp_path))
    assert (trials_of(docker), json.loads(path.read_text())["passwd"]) == (1, PASSWD)


@pytest.mark.usefixtures("docker")
def test_the_same_order_is_staged_once(tmp_path: Path) -> None:
    assert stage(an_order(tmp_path))["generation"] == 1
    assert stage(an_order(tmp_path, "r2"))["generation"] == 1
    assert stage(an_order(tmp_path, files={"compose.yaml": "other"}))["generation"] == 2


@pytest.mark.usefixtures("docker")
def test_stage_removes_failed_generations_and_keeps_the_rollback_target(tmp_path: Path) -> None:
    seat = seats.seat_of(an_order(tmp_path))
    for text in ("a", "b", "c"):
        number = stage(an_order(tmp_path, files={"compose.yaml": text}))["generation"]
        if text != "c":
            seat.commit(number)
    assert stage(an_order(tmp_path, files={"compose.yaml": "d"}))["generation"] == 4
    assert seat.numbers() == [1, 2, 4]


@pytest.mark.usefixtures("docker")
@pytest.mark.parametrize(
    ("code", "out", "err", "said"),
    [
        (125, "", "failed to register layer", "failed to register layer"),
        (1, ACCOUNTS, "cat: /etc/group: No such file or directory", "No such file"),
        (0, PASSWD, "", "root:x:0:0"),  # the entry point is another program than cat
        (None, "", "", "timed out"),
    ],
)
def test_an_image_that_does_not_start_is_refused_and_its_trial_container_removed(  # noqa: PLR0913, PLR0917  (a case)
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, code: int | None, out: str, err: str, said: str
) -> None:
    monkeypatch.setattr(trials, "run", lambda *_, **__: command.CommandResult(code, out, err))
    with pytest.raises(ProblemError, match=said) as caught:
        stage(an_order(tmp_path))
    assert caught.value.problem["code"] == "image_does_not_start"  # type: ignore[attr-defined]
    removals = [request for request in engine.requests if request.startswith("DELETE /containers/")]
    assert removals == ["DELETE /containers/provisioner-trial-demo-student?force=1"] * 2
    assert seats.seat_of(an_order(tmp_path)).numbers() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write there")
def test_the_ca_of_the_registry_is_written_in_place_of_our_older_one_and_beside_those_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_util("docker.trust"), "CERTIFICATES", tmp_path)
    order = an_order(tmp_path, registry={"address": "registry.lab:5201", "ca": "old"})
    seats.seat_of(order).make_folders()
    seats.seat_of(order).write(1, order, {})
    folder = tmp_path / "registry.lab:5201"

    def trust(wanted: str | None, **before: str) -> dict[str, str]:
        for name, text in before.items():
            folder.mkdir(exist_ok=True)
            (folder / f"{name}.crt").write_text(text)
        stages._trust({"address": "registry.lab:5201", "ca": wanted}, order["state_root"])
        return {path.stem: path.read_text() for path in folder.glob("*")}

    assert trust(None) == {}
    assert trust("old", ca="old") == {"ca": "old"}  # written by an earlier release
    assert trust("new") == {"provisioner": "new"}
    assert trust("new", ca="theirs") == {"provisioner": "new", "ca": "theirs"}
    assert trust("newer") == {"provisioner": "newer", "ca": "theirs"}
    assert trust("theirs") == {"provisioner": "theirs", "ca": "theirs"}


@pytest.mark.usefixtures("docker")
def test_a_node_taken_over_during_the_pull_gets_no_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = module_util("jobs.claims")
    order = an_order(tmp_path, claim={"run": "r1", "lab": "demo", "holder": "ann@one", "since": "", "fence": 1})
    claims.take_claim(order["state_root"], order["claim"], "")
    later = {**order["claim"], "run": "r2", "fence": 2}
    monkeypatch.setattr(stages, "pull", lambda *_: claims.take_claim(order["state_root"], later, "r1"))
    with pytest.raises(ProblemError, match="has taken over from run r1 on this node"):
        stage(order)
    assert seats.seat_of(order).numbers() == []


@pytest.mark.usefixtures("docker")
@pytest.mark.parametrize(("code", "installed"), [({}, 0), ({"provisioner/x.py": ""}, 1)])
def test_recovery_at_boot_is_installed_with_the_code_of_the_control_machine_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: dict[str, str], installed: int
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(stages, "install", lambda *given, **_: calls.append(given))
    order = an_order(tmp_path)
    seats.seat_of(order).make_folders()
    stages.stage(order, Reports(), 0, code)
    assert len(calls) == installed
