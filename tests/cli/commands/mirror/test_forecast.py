"""When to wait, when to move, as a person and a script see it; on registries and a feed on the loopback."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters.lab.directory import read_lab
from provisioner.adapters.state.files import state_home
from provisioner.cli import wiring
from provisioner.cli.commands.mirror.wait import conclude, polite, waiting
from provisioner.cli.output import Output
from provisioner.workflow.mirror.wait import Pace
from tests.adapters.registry.made_image import BIG, a_layer, an_image
from tests.adapters.registry.scripted_registry import Answer, Asked, ScriptedRegistry, served
from tests.cli.running import document, run, spawn

NOW = datetime.now(UTC).replace(microsecond=0)
OLD, NEW = "2.8.0-cuda12.8-cudnn9-runtime", "2.9.1-cuda12.8-cudnn9-runtime"
ENV = {
    OLD: ["PYTORCH_VERSION=2.8.0", "CUDA_VERSION=12.8.1"],
    NEW: ["PYTORCH_VERSION=2.9.1", "CUDA_VERSION=12.8.1"],
}


def a_job(status: str = "success", **hours: float) -> dict[str, Any]:
    given = {"last_update": -2.0, "last_started": -3.0, "last_ended": -2.0, "next_schedule": 10.0} | hours
    times = {f"{name}_ts": int((NOW + timedelta(hours=value)).timestamp()) for name, value in given.items()}
    return {"name": "images", "status": status} | times


class Field:
    """A lab, its mirror with a feed, and the upstream of both."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.jobs: list[dict[str, Any]] = [a_job()]
        self.mirror = stack.enter_context(served(ScriptedRegistry(self._feed)))
        self.upstream = stack.enter_context(served(ScriptedRegistry()))
        self.lab = path
        self.wish: dict[str, Any] = {
            "address": self.mirror.host,
            "plain_http": True,
            "feed": {"url": f"http://{self.mirror.host}/jobs", "job": "images"},
            "upstream": {"address": self.upstream.host, "plain_http": True},
        }
        (path / "hosts.yml").write_text("all: {hosts: {n1: {}}}\n")
        self.write()

    def write(self, **over: Any) -> None:
        wish = {name: value for name, value in (self.wish | over).items() if value is not None}
        lab = {"name": "demo", "mirror": wish, "registry": {"address": "r:5000"}}
        (self.lab / "lab.yml").write_text(json.dumps(lab))

    def put(self, registry: ScriptedRegistry, *tags: str) -> None:
        for tag in tags:
            registry.put("pytorch/pytorch", tag, an_image([a_layer(BIG, seed=len(tag))], env=ENV[tag]))

    def _feed(self, asked: Asked) -> Answer | None:
        return Answer(200, {}, json.dumps(self.jobs).encode()) if asked.path == "/jobs" else None

    def status(self, *words: str) -> dict[str, Any]:
        return document(run("mirror", "status", str(self.lab), "--json", *words))


@pytest.fixture
def field(tmp_path: Path) -> Iterator[Field]:
    with ExitStack() as stack:
        yield Field(tmp_path, stack)


def states(told: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    rows = told["tags"]
    return {
        row["reference"].rpartition(":")[2]: (row["state"], row["upstream"], row["forecast"]["decision"])
        for row in rows
    }


def test_status_tells_what_is_there_and_when_the_rest_comes(field: Field) -> None:
    field.put(field.mirror, OLD)
    field.put(field.upstream, OLD, NEW)
    told = field.status()
    assert told["schema"] == "provisioner/outlook/1"
    assert told["reference"].endswith(OLD)
    assert told["forecast"]["decision"] == "move_now"
    assert states(told) == {NEW: ("absent", "present", "wait_until"), OLD: ("complete", "present", "move_now")}
    newer = told["tags"][0]["forecast"]
    assert newer["is_prior"]
    assert newer["recheck_seconds"] == 600
    due = NOW + timedelta(hours=10)
    assert due < datetime.fromisoformat(newer["p50"]) < due + timedelta(hours=3)
    assert datetime.fromisoformat(newer["p50"]) < datetime.fromisoformat(newer["p90"])
    values = {given["name"]: given["value"] for given in newer["evidence"]}
    assert (values["upstream"], values["status"], values["interval_seconds"]) == ("present", "success", 43200)


def test_status_in_words(field: Field) -> None:
    field.put(field.upstream, NEW)
    field.put(field.mirror, OLD)
    ran = run("mirror", "status", str(field.lab), "--torch", "2.9")
    assert ran.exit_code == 0
    assert f"{field.mirror.host} (static); wished for: torch 2.9" in ran.stdout
    assert "its job images: success; last success " in ran.stdout
    assert "\nwait until " in ran.stdout
    assert "look again every 10:00 min (prior: " in ran.stdout
    assert "  interval_seconds = 43200  (prior: fewer than 5 runs seen)" in ran.stdout
    assert "\x1b" not in ran.stdout


def test_what_upstream_does_not_have_never_comes(field: Field) -> None:
    field.put(field.mirror, OLD)
    field.put(field.upstream, OLD)
    told = field.status("--torch", "2.15")
    assert (told["reference"], told["tags"]) == (None, [])
    assert told["forecast"]["decision"] == "never"
    assert told["forecast"]["problem"]["fix"] == f"choose what exists: {OLD}"


def test_paused_and_another_tag_is_complete_here(field: Field) -> None:
    field.jobs = [a_job("paused")]
    field.put(field.mirror, OLD)
    field.put(field.upstream, OLD, NEW)
    told = field.status("--torch", "2.9")
    assert told["forecast"]["decision"] == "choose_other_tag"
    assert OLD in told["forecast"]["problem"]["fix"]
    assert told["forecast"]["problem"]["code"] == "sync_stopped"


def test_a_tag_that_moved_upstream_is_stale_and_the_next_one_is_taken(field: Field) -> None:
    for registry in (field.mirror, field.upstream):
        field.put(registry, OLD)
        seed = len(registry.host) if registry is field.mirror else 99
        registry.put("pytorch/pytorch", NEW, an_image([a_layer(BIG, seed=seed)], env=ENV[NEW]))
    told = field.status()
    assert {tag: row[0] for tag, row in states(told).items()} == {NEW: "stale", OLD: "complete"}
    assert told["reference"].endswith(OLD)
    asked = [asked for asked in field.upstream.asked if "/manifests/" in asked.path]
    assert [one.method for one in asked] == ["HEAD", "GET", "HEAD"]
    field.upstream.asked.clear()
    assert field.status()["reference"] == told["reference"]
    again = [asked for asked in field.upstream.asked if "/manifests/" in asked.path]
    assert [one.method for one in again] == ["HEAD", "HEAD"]  # a GET is what Docker Hub counts
    assert not [asked for asked in field.upstream.asked if "/blobs/" in asked.path]


def test_a_mirror_that_is_no_registry_is_not_waited_for(field: Field) -> None:
    field.put(field.upstream, NEW)
    field.mirror.scripts.append(lambda _: Answer(404, {"Content-Type": "text/html"}, b"<html>"))
    told = field.status()
    assert told["forecast"]["decision"] == "use_other_mirror"
    assert told["forecast"]["problem"]["code"] == "no_such_service"
    ran = run("mirror", "wait", str(field.lab), "--torch", "2.9", "--json")
    assert ran.exit_code == 1
    assert document(ran)["problems"][0]["code"] == "no_such_service"


def test_without_feed_and_upstream_nothing_is_promised(field: Field) -> None:
    field.write(feed=None, upstream=None)
    field.put(field.mirror, OLD)
    told = field.status("--torch", "2.9")
    assert told["forecast"]["decision"] == "choose_other_tag"
    assert told["forecast"]["problem"]["code"] == "no_schedule"
    assert told["feed"] is None


def test_a_mirror_that_falls_silent_in_the_middle_of_a_look_says_why(field: Field) -> None:
    field.write(upstream=None)
    field.put(field.mirror, OLD)
    lists = iter([None, Answer(403)])
    field.mirror.scripts.append(lambda asked: next(lists) if "/tags/" in asked.path else None)
    told = field.status("--torch", "2.8")
    assert told["tags"] == []
    assert [problem["code"] for problem in told["problems"]] == ["denied"]


def test_a_cache_is_not_asked_for_layers_by_status_but_it_is_by_wait(field: Field) -> None:
    field.write(kind="registry-proxy", feed=None)
    field.put(field.mirror, OLD)
    field.put(field.upstream, OLD)
    told = field.status("--torch", "2.8")
    assert states(told)[OLD] == ("cold", "present", "move_now")
    assert told["reference"] is None
    assert not [asked for asked in field.mirror.asked if "/blobs/" in asked.path]
    ran = run("mirror", "wait", str(field.lab), "--torch", "2.8")
    assert (ran.exit_code, ran.stdout) == (0, f"{field.mirror.host}/pytorch/pytorch:{OLD}\n")


def test_what_was_seen_is_kept_by_host_and_only_once(field: Field) -> None:
    field.put(field.mirror, OLD)
    field.put(field.upstream, OLD, NEW)
    for _ in range(2):
        field.status()
    kept = {
        path.name: [json.loads(line) for line in path.read_text().splitlines()]
        for path in (state_home() / "mirrors").iterdir()
    }
    mirror, upstream = (kept[f"{registry.host.replace(':', '_')}.jsonl"] for registry in (field.mirror, field.upstream))
    assert sorted(seen["kind"] for seen in mirror) == ["feed", "tag"]
    assert sorted((seen["kind"], seen["tag"]) for seen in upstream) == [("listed", OLD), ("listed", NEW)]
    assert len([asked for asked in field.mirror.asked if asked.path == "/jobs"]) == 1


class Clock:
    """Time that passes only in sleep; `events` happen at their hour."""

    def __init__(self, *events: tuple[float, Any]) -> None:
        self.now, self.events, self.slept = NOW, list(events), list[float]()

    def __call__(self) -> datetime:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)
        for event in [event for event in self.events if self.now >= NOW + timedelta(hours=event[0])]:
            self.events.remove(event)
            event[1]()


def wait(field: Field, clock: Clock, torch: str = "2.9", hours: float = 12) -> tuple[str | None, int]:
    directory = read_lab(str(field.lab))
    pace = Pace(clock, clock.sleep, 600, NOW + timedelta(hours=hours))
    waited = waiting(directory, wiring.wanted(directory, torch, "linux/amd64"), pace, Output())
    return waited.reference, len(clock.slept)


def test_wait_looks_again_until_it_is_complete(field: Field, capsys: pytest.CaptureFixture[str]) -> None:
    field.put(field.upstream, NEW)
    field.put(field.mirror, OLD)

    def arrive() -> None:
        field.put(field.mirror, NEW)

    reference, slept = wait(field, Clock((1, arrive)))
    assert reference == f"{field.mirror.host}/pytorch/pytorch:{NEW}"
    assert slept == 6
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 6
    assert f"waiting for torch 2.9 on {field.mirror.host}; 1 tag known, none complete; expected " in said[0]
    assert said[0].endswith("next look in 10:00 min, 12:00:00 h left")
    assert len([asked for asked in field.mirror.asked if asked.path == "/jobs"]) == 7


def test_wait_for_a_layer_that_is_still_missing(field: Field, capsys: pytest.CaptureFixture[str]) -> None:
    image = an_image([a_layer(seed=1), a_layer(seed=2)], env=ENV[NEW])
    for registry in (field.upstream, field.mirror):
        registry.put("pytorch/pytorch", NEW, image)
    lost = image.layers[1]
    field.mirror.lose(lost)

    def come() -> None:
        field.mirror.put("pytorch/pytorch", NEW, image)

    reference, slept = wait(field, Clock((0.5, come)))
    assert (reference is not None, slept) == (True, 3)
    assert f":{NEW} lacks 200 kB" in capsys.readouterr().err


def test_wait_ends_at_the_deadline_after_a_last_look(field: Field) -> None:
    clock = Clock()
    field.put(field.upstream, NEW)
    field.put(field.mirror, OLD)
    assert wait(field, clock, hours=0.25) == (None, 2)
    assert clock.slept == [600, 300]


def test_a_mirror_that_is_away_for_a_while_is_waited_for(field: Field) -> None:
    """It was a registry at the first look."""
    field.put(field.upstream, NEW)
    field.put(field.mirror, OLD)
    down = Answer(404, {}, b"<html>")

    def away() -> None:
        field.mirror.scripts.append(lambda asked: down if asked.path.startswith("/v2/") else None)

    def back() -> None:
        field.mirror.scripts.pop()
        field.put(field.mirror, NEW)

    reference, slept = wait(field, Clock((0.3, away), (1, back)))
    assert (reference is not None, slept) == (True, 6)


def test_a_deadline_that_has_passed_is_one_look_and_exit_1(field: Field) -> None:
    field.put(field.upstream, NEW)
    ran = run("mirror", "wait", str(field.lab), "--torch", "2.9", "--deadline", "0s", "--json")
    told = document(ran)
    assert ran.exit_code == 1
    assert (told["schema"], told["reference"]) == ("provisioner/waited/1", None)
    assert told["waited_seconds"] < 600  # until a second look
    assert told["problems"][0]["code"] == "not_there_in_time"
    assert told["outlook"]["schema"] == "provisioner/outlook/1"


def test_the_hook_gets_the_reference_and_no_shell(field: Field, tmp_path: Path) -> None:
    field.put(field.mirror, NEW)
    hook = tmp_path / "tell me.sh"
    hook.write_text(f'#!/bin/sh\nprintf "%s|" "$@" > "{tmp_path}/told"\nexit "$2"\n')
    hook.chmod(0o755)
    words = ["mirror", "wait", str(field.lab), "--torch", "2.9", "--notify"]
    reference = f"{field.mirror.host}/pytorch/pytorch:{NEW}"
    well, badly = (run(*words, f"'{hook}' '$HOME; x' {code}") for code in (0, 3))
    assert (tmp_path / "told").read_text() == f"$HOME; x|3|{reference}|"
    assert [well.exit_code, badly.exit_code] == [0, 1]
    assert well.stdout == badly.stdout == f"{reference}\n"
    assert "notify_failed" in badly.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--deadline", "soon"], "is no length of time such as"),
        (["--every", "10"], "is no length of time such as"),
        (["--notify", "no-such-command-here x"], "is no command that can be run here"),
        (["--notify", "'"], "No closing quotation"),
    ],
)
def test_a_wait_typed_wrong_is_told_before_it_begins(field: Field, words: list[str], said: str) -> None:
    ran = run("mirror", "wait", str(field.lab), *words)
    assert ran.exit_code == 2
    assert said in ran.stderr
    assert field.mirror.asked == []


def test_public_mirrors_are_asked_every_ten_minutes_at_most(field: Field, capsys: pytest.CaptureFixture[str]) -> None:
    own = wiring.wanted(read_lab(str(field.lab)), None, "linux/amd64")
    field.write(address="m.daocloud.io", feed=None, upstream=None)
    public = wiring.wanted(read_lab(str(field.lab)), None, "linux/amd64")
    assert (own.kind, own.is_public) == ("static", False)
    assert (public.kind, public.is_public) == ("lazy", True)
    assert [polite(wish, every, Output()) for wish in (own, public) for every in (5, 3600)] == [5, 3600, 600, 3600]
    assert "m.daocloud.io is a public mirror" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "kind", "sparing"),
    [
        ("registry.lab:5000", "static", False),
        ("registry.lab:5000", "registry-proxy", True),
        ("docker.io", None, True),  # it counts manifests
        ("m.daocloud.io", None, True),
        ("nvcr.io", None, False),  # its tags do not say what is in them
    ],
)
def test_which_mirrors_are_never_asked_for_all(field: Field, address: str, kind: str | None, sparing: bool) -> None:
    field.write(address=address, kind=kind, feed=None, upstream=None)
    assert wiring.is_sparing(read_lab(str(field.lab))) is sparing


def test_an_interrupted_wait_ends_with_130(field: Field) -> None:
    field.put(field.upstream, NEW)
    field.put(field.mirror, OLD)
    with spawn("mirror", "wait", str(field.lab), "--torch", "2.9") as process:
        assert process.stderr is not None
        assert "waiting for torch 2.9" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted" in said


def test_conclusion_of_a_wait_is_one_document(field: Field, capsys: pytest.CaptureFixture[str]) -> None:
    field.put(field.mirror, NEW)
    directory, clock = read_lab(str(field.lab)), Clock()
    pace = Pace(clock, clock.sleep, 600, NOW)
    waited = waiting(directory, wiring.wanted(directory, "2.9", "linux/amd64"), pace, Output())
    assert conclude(Output(as_json=True), waited, [], 3.4) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["waited_seconds"], told["problems"]) == (3, [])
    assert told["reference"] == waited.reference


@pytest.fixture(autouse=True)
def _no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """No index of this machine's pip is asked by accident."""
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


def test_an_index_of_pip_that_hides_what_exists_is_named(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (f"torch-{torch}+cu128-cp311-cp311-manylinux_2_28_x86_64.whl" for torch in ("2.7.1", "2.8.0"))
    pages = {"/w/": "", "/above/": new, "/simple/torch/": old}
    for registry in (field.mirror, field.upstream):
        registry.scripts.append(
            lambda asked: (
                Answer(200, {}, f'<a href="{pages[asked.path]}">x</a>'.encode()) if asked.path in pages else None
            )
        )
    at = f"http://{field.mirror.host}"
    words = ["mirror", "wheel", f"{at}/w", "--torch", "2.8.0", "--cuda", "cu128", "--upstream", f"{at}/above", "--json"]
    assert document(run(*words))["problems"] == []
    monkeypatch.setenv("PIP_INDEX_URL", f"{at.replace('//', '//ann:secret@')}/simple")
    told = run(*words)
    (problem,) = document(told)["problems"]
    assert problem["code"] == "stale_index"
    assert f"{at}/simple" in problem["what"]
    assert "secret" not in told.stdout + told.stderr
    assert "stale_index" in run(*words[:-1]).stdout


def test_status_names_what_of_this_machine_may_be_in_the_way(
    field: Field, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin/docker"
    docker.write_text('#!/bin/sh\necho \'{"RegistryConfig": {"Mirrors": ["https://hub.campus/"]}}\'\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    field.put(field.upstream, NEW)
    field.put(field.mirror, OLD)
    assert "registry_mirrors" in {problem["code"] for problem in field.status("--torch", "2.9")["problems"]}
    assert field.status("--torch", "2.8")["problems"] == []
    field.write(address="mirror.invalid:5000", feed=None, upstream=None)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    codes = [problem["code"] for problem in field.status("--torch", "2.9")["problems"]]
    assert codes == ["proxy_failed", "registry_mirrors"]
    check = run("mirror", "check", "mirror.invalid:5000/a/b:c", "--plain-http", "--json")
    (image,) = document(check)["images"]
    assert [problem["code"] for problem in image["problems"]] == ["proxy_failed"]
    assert [problem["code"] for problem in document(check)["problems"]] == ["registry_mirrors"]


def test_wheel_of_a_mirror(field: Field) -> None:
    name = "torch-2.8.0+cu128-cp311-cp311-manylinux_2_28_x86_64.whl"
    field.mirror.scripts.append(lambda asked: Answer(200, {}, b"") if asked.path == "/w/" else None)
    field.upstream.scripts.append(
        lambda asked: Answer(200, {}, f'<a href="{name}">x</a>'.encode()) if asked.path == "/w/" else None
    )
    words = ["mirror", "wheel", f"http://{field.mirror.host}/w", "--cuda", "cu128", "--json"]
    ran = run(*words, "--torch", "2.8.0", "--upstream", f"http://{field.upstream.host}/w")
    told = document(ran)
    assert (ran.exit_code, told["schema"]) == (1, "provisioner/wheels/1")
    (wheel,) = told["wheels"]
    assert (wheel["state"], wheel["upstream"], wheel["problems"][0]["code"]) == ("absent", "present", "not_yet")
    assert run(*words, "--torch", "new").exit_code == 2
    wrong = run("mirror", "wheel", f"http://{field.mirror.host}/{name}", "--torch", "2.9", "--cuda", "cu128")
    assert "is not a wheel of torch 2.9+cu128" in wrong.stderr
