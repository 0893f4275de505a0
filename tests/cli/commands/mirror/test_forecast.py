"""`provision mirror status`, `wait` and `wheel`, with registries and a feed on the loopback."""

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
from provisioner.cli.commands.mirror.wait import limit_rate, report_wait, run_wait
from provisioner.cli.output import Output
from provisioner.workflow.mirror.wait import WaitSettings
from tests.adapters.registry.made_image import BIG, a_layer, an_image
from tests.adapters.registry.scripted_registry import Answer, ReceivedRequest, ScriptedRegistry, served
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


class MirrorLab:
    """A lab, its mirror with a sync feed, and the upstream of the mirror."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.jobs: list[dict[str, Any]] = [a_job()]
        self.mirror = stack.enter_context(served(ScriptedRegistry(self._feed)))
        self.upstream = stack.enter_context(served(ScriptedRegistry()))
        self.path = path
        self.settings: dict[str, Any] = {
            "address": self.mirror.host,
            "plain_http": True,
            "feed": {"url": f"http://{self.mirror.host}/jobs", "job": "images"},
            "upstream": {"address": self.upstream.host, "plain_http": True},
        }
        (path / "hosts.yml").write_text("all: {hosts: {n1: {}}}\n")
        self.write_lab()

    def write_lab(self, **over: Any) -> None:
        settings = {name: value for name, value in (self.settings | over).items() if value is not None}
        lab = {"name": "demo", "mirror": settings, "registry": {"address": "r:5000"}}
        (self.path / "lab.yml").write_text(json.dumps(lab))

    def put(self, registry: ScriptedRegistry, *tags: str) -> None:
        for tag in tags:
            registry.put("pytorch/pytorch", tag, an_image([a_layer(BIG, seed=len(tag))], env=ENV[tag]))

    def _feed(self, asked: ReceivedRequest) -> Answer | None:
        return Answer(200, {}, json.dumps(self.jobs).encode()) if asked.path == "/jobs" else None

    def status(self, *words: str) -> dict[str, Any]:
        return document(run("mirror", "status", str(self.path), "--json", *words))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[MirrorLab]:
    with ExitStack() as stack:
        yield MirrorLab(tmp_path, stack)


def states(document: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    rows = document["tags"]
    return {
        row["reference"].rpartition(":")[2]: (row["state"], row["upstream"], row["forecast"]["decision"])
        for row in rows
    }


def test_status_shows_complete_tags_and_when_missing_ones_are_expected(lab: MirrorLab) -> None:
    lab.put(lab.mirror, OLD)
    lab.put(lab.upstream, OLD, NEW)
    found = lab.status()
    assert found["schema"] == "provisioner/outlook/1"
    assert found["reference"].endswith(OLD)
    assert found["forecast"]["decision"] == "move_now"
    assert states(found) == {NEW: ("absent", "present", "wait_until"), OLD: ("complete", "present", "move_now")}
    newer = found["tags"][0]["forecast"]
    assert newer["is_prior"]
    assert newer["recheck_seconds"] == 600
    due = NOW + timedelta(hours=10)
    assert due < datetime.fromisoformat(newer["p50"]) < due + timedelta(hours=3)
    assert datetime.fromisoformat(newer["p50"]) < datetime.fromisoformat(newer["p90"])
    values = {given["name"]: given["value"] for given in newer["evidence"]}
    assert (values["upstream"], values["status"], values["interval_seconds"]) == ("present", "success", 43200)


def test_status_text(lab: MirrorLab) -> None:
    lab.put(lab.upstream, NEW)
    lab.put(lab.mirror, OLD)
    ran = run("mirror", "status", str(lab.path), "--torch", "2.9")
    assert ran.exit_code == 0
    assert f"{lab.mirror.host} (static); requested: torch 2.9" in ran.stdout
    assert "\nsync job images: success; last success " in ran.stdout
    assert "\nwait until " in ran.stdout
    assert "check again every 10:00 min (prior: " in ran.stdout
    assert "  interval_seconds = 43200  (prior: fewer than 5 runs observed)" in ran.stdout
    assert "\x1b" not in ran.stdout


def test_a_tag_that_upstream_does_not_have_is_never_expected(lab: MirrorLab) -> None:
    lab.put(lab.mirror, OLD)
    lab.put(lab.upstream, OLD)
    found = lab.status("--torch", "2.15")
    assert (found["reference"], found["tags"]) == (None, [])
    assert found["forecast"]["decision"] == "never"
    assert found["forecast"]["problem"]["fix"] == f"choose what exists: {OLD}"


def test_a_paused_mirror_with_another_complete_tag(lab: MirrorLab) -> None:
    lab.jobs = [a_job("paused")]
    lab.put(lab.mirror, OLD)
    lab.put(lab.upstream, OLD, NEW)
    found = lab.status("--torch", "2.9")
    assert found["forecast"]["decision"] == "choose_other_tag"
    assert OLD in found["forecast"]["problem"]["fix"]
    assert found["forecast"]["problem"]["code"] == "sync_stopped"


def test_a_tag_that_moved_upstream_is_stale_and_the_next_one_is_reported(lab: MirrorLab) -> None:
    for registry in (lab.mirror, lab.upstream):
        lab.put(registry, OLD)
        seed = len(registry.host) if registry is lab.mirror else 99
        registry.put("pytorch/pytorch", NEW, an_image([a_layer(BIG, seed=seed)], env=ENV[NEW]))
    found = lab.status()
    assert {tag: row[0] for tag, row in states(found).items()} == {NEW: "stale", OLD: "complete"}
    assert found["reference"].endswith(OLD)
    asked = [asked for asked in lab.upstream.asked if "/manifests/" in asked.path]
    assert [one.method for one in asked] == ["HEAD", "GET", "HEAD"]
    lab.upstream.asked.clear()
    assert lab.status()["reference"] == found["reference"]
    again = [asked for asked in lab.upstream.asked if "/manifests/" in asked.path]
    assert [one.method for one in again] == ["HEAD", "HEAD"]  # a GET is what Docker Hub counts
    assert not [asked for asked in lab.upstream.asked if "/blobs/" in asked.path]


def test_wait_ends_at_once_where_the_address_is_not_a_registry(lab: MirrorLab) -> None:
    lab.put(lab.upstream, NEW)
    lab.mirror.scripts.append(lambda _: Answer(404, {"Content-Type": "text/html"}, b"<html>"))
    found = lab.status()
    assert found["forecast"]["decision"] == "use_other_mirror"
    assert found["forecast"]["problem"]["code"] == "no_such_service"
    ran = run("mirror", "wait", str(lab.path), "--torch", "2.9", "--json")
    assert ran.exit_code == 1
    assert document(ran)["problems"][0]["code"] == "no_such_service"


def test_without_feed_and_upstream_no_date_is_expected(lab: MirrorLab) -> None:
    lab.write_lab(feed=None, upstream=None)
    lab.put(lab.mirror, OLD)
    found = lab.status("--torch", "2.9")
    assert found["forecast"]["decision"] == "choose_other_tag"
    assert found["forecast"]["problem"]["code"] == "no_schedule"
    assert found["feed"] is None


def test_a_mirror_that_fails_during_a_status_is_a_problem_in_it(lab: MirrorLab) -> None:
    lab.write_lab(upstream=None)
    lab.put(lab.mirror, OLD)
    lists = iter([None, Answer(403)])
    lab.mirror.scripts.append(lambda asked: next(lists) if "/tags/" in asked.path else None)
    found = lab.status("--torch", "2.8")
    assert found["tags"] == []
    assert [problem["code"] for problem in found["problems"]] == ["denied"]


def test_folders_that_cannot_be_written_do_not_end_a_status(lab: MirrorLab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.put(lab.mirror, OLD)
    lab.put(lab.upstream, OLD)
    for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, "/proc/none")
    found = lab.status()
    assert found["reference"].endswith(OLD)
    assert {problem["code"] for problem in found["problems"]} == {"history_unusable"}


def test_the_labs_own_compatibility_data_is_used(lab: MirrorLab) -> None:
    lab.put(lab.mirror, OLD)
    (lab.path / "compatibility.yaml").write_text("torch: 1\n")
    ran = run("mirror", "status", str(lab.path))
    assert ran.exit_code == 2
    assert "compatibility.yaml:1:" in ran.stderr


def test_a_cache_is_asked_for_layers_by_wait_and_not_by_status(lab: MirrorLab) -> None:
    lab.write_lab(kind="registry-proxy", feed=None)
    lab.put(lab.mirror, OLD)
    lab.put(lab.upstream, OLD)
    found = lab.status("--torch", "2.8")
    assert states(found)[OLD] == ("cold", "present", "move_now")
    assert found["reference"] is None
    assert not [asked for asked in lab.mirror.asked if "/blobs/" in asked.path]
    ran = run("mirror", "wait", str(lab.path), "--torch", "2.8")
    assert (ran.exit_code, ran.stdout) == (0, f"{lab.mirror.host}/pytorch/pytorch:{OLD}\n")


def test_each_observation_is_stored_once_by_host(lab: MirrorLab) -> None:
    lab.put(lab.mirror, OLD)
    lab.put(lab.upstream, OLD, NEW)
    for _ in range(2):
        lab.status()
    kept = {
        path.name: [json.loads(line) for line in path.read_text().splitlines()]
        for path in (state_home() / "mirrors").iterdir()
    }
    mirror, upstream = (kept[f"{registry.host.replace(':', '_')}.jsonl"] for registry in (lab.mirror, lab.upstream))
    assert sorted(seen["kind"] for seen in mirror) == ["feed", "tag"]
    assert sorted((seen["kind"], seen["tag"]) for seen in upstream) == [("listed", OLD), ("listed", NEW)]
    assert len([asked for asked in lab.mirror.asked if asked.path == "/jobs"]) == 1


class Clock:
    """A clock that advances only in sleep; `events` are called at their hour."""

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


def wait_for(lab: MirrorLab, clock: Clock, torch: str = "2.9", hours: float = 12) -> tuple[str | None, int]:
    directory = read_lab(str(lab.path))
    settings = WaitSettings(clock, clock.sleep, 600, NOW + timedelta(hours=hours))
    result = run_wait(directory, wiring.wanted(directory, torch, "linux/amd64"), settings, Output())
    return result.reference, len(clock.slept)


def test_wait_reads_the_status_until_the_image_is_complete(lab: MirrorLab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.put(lab.upstream, NEW)
    lab.put(lab.mirror, OLD)

    def arrive() -> None:
        lab.put(lab.mirror, NEW)

    reference, slept = wait_for(lab, Clock((1, arrive)))
    assert reference == f"{lab.mirror.host}/pytorch/pytorch:{NEW}"
    assert slept == 6
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert f"waiting for torch 2.9 on {lab.mirror.host}; 1 tag known, none complete; expected " in lines[0]
    assert lines[0].endswith("next reading in 10:00 min, 12:00:00 h left")
    assert len([asked for asked in lab.mirror.asked if asked.path == "/jobs"]) == 7


def test_wait_for_a_missing_layer(lab: MirrorLab, capsys: pytest.CaptureFixture[str]) -> None:
    image = an_image([a_layer(seed=1), a_layer(seed=2)], env=ENV[NEW])
    for registry in (lab.upstream, lab.mirror):
        registry.put("pytorch/pytorch", NEW, image)
    lost = image.layers[1]
    lab.mirror.lose(lost)

    def restore() -> None:
        lab.mirror.put("pytorch/pytorch", NEW, image)

    reference, slept = wait_for(lab, Clock((0.5, restore)))
    assert (reference is not None, slept) == (True, 3)
    assert f":{NEW} lacks 200 kB" in capsys.readouterr().err


def test_wait_ends_at_the_deadline_after_a_last_reading(lab: MirrorLab) -> None:
    clock = Clock()
    lab.put(lab.upstream, NEW)
    lab.put(lab.mirror, OLD)
    assert wait_for(lab, clock, hours=0.25) == (None, 2)
    assert clock.slept == [600, 300]


def test_wait_continues_through_an_outage_of_the_mirror(lab: MirrorLab) -> None:
    """The mirror was a registry at the first reading."""
    lab.put(lab.upstream, NEW)
    lab.put(lab.mirror, OLD)
    down = Answer(404, {}, b"<html>")

    def stop() -> None:
        lab.mirror.scripts.append(lambda asked: down if asked.path.startswith("/v2/") else None)

    def start() -> None:
        lab.mirror.scripts.pop()
        lab.put(lab.mirror, NEW)

    reference, slept = wait_for(lab, Clock((0.3, stop), (1, start)))
    assert (reference is not None, slept) == (True, 6)


def test_a_deadline_of_zero_is_one_reading_and_exit_1(lab: MirrorLab) -> None:
    lab.put(lab.upstream, NEW)
    ran = run("mirror", "wait", str(lab.path), "--torch", "2.9", "--deadline", "0s", "--json")
    found = document(ran)
    assert ran.exit_code == 1
    assert (found["schema"], found["reference"]) == ("provisioner/waited/1", None)
    assert found["waited_seconds"] < 600  # until a second reading
    assert found["problems"][0]["code"] == "not_there_in_time"
    assert found["outlook"]["schema"] == "provisioner/outlook/1"


def test_the_hook_is_run_with_the_reference_and_without_a_shell(lab: MirrorLab, tmp_path: Path) -> None:
    lab.put(lab.mirror, NEW)
    hook = tmp_path / "my hook.sh"
    hook.write_text(f'#!/bin/sh\nprintf "%s|" "$@" > "{tmp_path}/arguments"\nexit "$2"\n')
    hook.chmod(0o755)
    words = ["mirror", "wait", str(lab.path), "--torch", "2.9", "--notify"]
    reference = f"{lab.mirror.host}/pytorch/pytorch:{NEW}"
    well, badly = (run(*words, f"'{hook}' '$HOME; x' {code}") for code in (0, 3))
    assert (tmp_path / "arguments").read_text() == f"$HOME; x|3|{reference}|"
    assert [well.exit_code, badly.exit_code] == [0, 1]
    assert well.stdout == badly.stdout == f"{reference}\n"
    assert "notify_failed" in badly.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--deadline", "soon"], "invalid duration"),
        (["--every", "10"], "invalid duration"),
        (["--notify", "no-such-command-here x"], "is not an executable command on this machine"),
        (["--notify", "'"], "No closing quotation"),
    ],
)
def test_a_wrong_option_of_wait_is_refused_before_any_request(lab: MirrorLab, words: list[str], expected: str) -> None:
    ran = run("mirror", "wait", str(lab.path), *words)
    assert ran.exit_code == 2
    assert expected in ran.stderr
    assert lab.mirror.asked == []


def test_public_mirrors_are_read_every_ten_minutes_at_most(lab: MirrorLab, capsys: pytest.CaptureFixture[str]) -> None:
    own = wiring.wanted(read_lab(str(lab.path)), None, "linux/amd64")
    lab.write_lab(address="m.daocloud.io", feed=None, upstream=None)
    public = wiring.wanted(read_lab(str(lab.path)), None, "linux/amd64")
    assert (own.kind, own.is_public) == ("static", False)
    assert (public.kind, public.is_public) == ("lazy", True)
    assert [limit_rate(query, every, Output()) for query in (own, public) for every in (5, 3600)] == [
        5,
        3600,
        600,
        3600,
    ]
    assert "m.daocloud.io is a public mirror" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "kind", "metered"),
    [
        ("registry.lab:5000", "static", False),
        ("registry.lab:5000", "registry-proxy", True),
        ("docker.io", None, True),  # it counts requests for manifests
        ("m.daocloud.io", None, True),
        ("nvcr.io", None, False),  # its tags do not name versions of torch
    ],
)
def test_metered_mirrors(lab: MirrorLab, address: str, kind: str | None, metered: bool) -> None:
    lab.write_lab(address=address, kind=kind, feed=None, upstream=None)
    assert wiring.is_metered(read_lab(str(lab.path))) is metered


def test_an_interrupted_wait_is_exit_130(lab: MirrorLab) -> None:
    lab.put(lab.upstream, NEW)
    lab.put(lab.mirror, OLD)
    with spawn("mirror", "wait", str(lab.path), "--torch", "2.9") as process:
        assert process.stderr is not None
        assert "waiting for torch 2.9" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted" in stderr


def test_the_document_of_a_successful_wait(lab: MirrorLab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.put(lab.mirror, NEW)
    directory, clock = read_lab(str(lab.path)), Clock()
    settings = WaitSettings(clock, clock.sleep, 600, NOW)
    result = run_wait(directory, wiring.wanted(directory, "2.9", "linux/amd64"), settings, Output())
    assert report_wait(Output(as_json=True), result, [], 3.4) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["waited_seconds"], found["problems"]) == (3, [])
    assert found["reference"] == result.reference


@pytest.fixture(autouse=True)
def _no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore the pip configuration of this machine."""
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


def test_a_stale_index_of_pip_is_a_problem_of_mirror_wheel(lab: MirrorLab, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (f"torch-{torch}+cu128-cp311-cp311-manylinux_2_28_x86_64.whl" for torch in ("2.7.1", "2.8.0"))
    pages = {"/w/": "", "/above/": new, "/simple/torch/": old}
    for registry in (lab.mirror, lab.upstream):
        registry.scripts.append(
            lambda asked: (
                Answer(200, {}, f'<a href="{pages[asked.path]}">x</a>'.encode()) if asked.path in pages else None
            )
        )
    at = f"http://{lab.mirror.host}"
    words = ["mirror", "wheel", f"{at}/w", "--torch", "2.8.0", "--cuda", "cu128", "--upstream", f"{at}/above", "--json"]
    assert document(run(*words))["problems"] == []
    monkeypatch.setenv("PIP_INDEX_URL", f"{at.replace('//', '//ann:secret@')}/simple")
    found = run(*words)
    (problem,) = document(found)["problems"]
    assert problem["code"] == "stale_index"
    assert f"{at}/simple" in problem["what"]
    assert "secret" not in found.stdout + found.stderr
    assert "stale_index" in run(*words[:-1]).stdout


def test_proxies_and_engine_mirrors_of_this_machine_are_problems_of_status_and_check(
    lab: MirrorLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin/docker"
    docker.write_text('#!/bin/sh\necho \'{"RegistryConfig": {"Mirrors": ["https://hub.campus/"]}}\'\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    lab.put(lab.upstream, NEW)
    lab.put(lab.mirror, OLD)
    assert "registry_mirrors" in {problem["code"] for problem in lab.status("--torch", "2.9")["problems"]}
    assert lab.status("--torch", "2.8")["problems"] == []
    lab.write_lab(address="mirror.invalid:5000", feed=None, upstream=None)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    codes = [problem["code"] for problem in lab.status("--torch", "2.9")["problems"]]
    assert codes == ["proxy_failed", "registry_mirrors"]
    check = run("mirror", "check", "mirror.invalid:5000/a/b:c", "--plain-http", "--json")
    (image,) = document(check)["images"]
    assert [problem["code"] for problem in image["problems"]] == ["proxy_failed"]
    assert [problem["code"] for problem in document(check)["problems"]] == ["registry_mirrors"]


def test_mirror_wheel_reports_a_wheel_that_is_not_there_yet(lab: MirrorLab) -> None:
    name = "torch-2.8.0+cu128-cp311-cp311-manylinux_2_28_x86_64.whl"
    lab.mirror.scripts.append(lambda asked: Answer(200, {}, b"") if asked.path == "/w/" else None)
    lab.upstream.scripts.append(
        lambda asked: Answer(200, {}, f'<a href="{name}">x</a>'.encode()) if asked.path == "/w/" else None
    )
    words = ["mirror", "wheel", f"http://{lab.mirror.host}/w", "--cuda", "cu128", "--json"]
    ran = run(*words, "--torch", "2.8.0", "--upstream", f"http://{lab.upstream.host}/w")
    found = document(ran)
    assert (ran.exit_code, found["schema"]) == (1, "provisioner/wheels/1")
    (wheel,) = found["wheels"]
    assert (wheel["state"], wheel["upstream"], wheel["problems"][0]["code"]) == ("absent", "present", "not_yet")
    assert run(*words, "--torch", "new").exit_code == 2
    wrong = run("mirror", "wheel", f"http://{lab.mirror.host}/{name}", "--torch", "2.9", "--cuda", "cu128")
    assert "is not a wheel of torch 2.9+cu128" in wrong.stderr
