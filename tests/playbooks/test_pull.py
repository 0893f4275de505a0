import base64
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import REFERENCE, an_order

pulls = module_util("docker.pull")


def downloading(layer: str, current: int, total: int) -> dict[str, Any]:
    return {"id": layer, "status": "Downloading", "progressDetail": {"current": current, "total": total}}


STREAM = [
    {"id": "a", "status": "Already exists"},
    downloading("b", 10, 100),
    downloading("c", 5, 50),
    downloading("b", 60, 100),
    {"id": "b", "status": "Download complete"},
    {"id": "c", "status": "Download complete"},
    {"id": "b", "status": "Extracting", "progressDetail": {"current": 1, "total": 100}},
    {"id": "b", "status": "Pull complete"},
    {"status": "Digest: sha256:…"},
]
# With containerd's image store (moby: daemon/containerd/progress.go): unpacking has seconds in place of bytes.
CONTAINERD_STREAM = [
    {"id": "a", "status": "Waiting"},
    {"id": "a", "status": "Pulling layer fs", "progressDetail": {"current": 40, "total": 100}},
    downloading("b", 10, 50),
    {"id": "a", "status": "Download complete", "progressDetail": {"hidecounts": True}},
    {"id": "a", "status": "Extracting", "progressDetail": {"current": 1, "units": "s"}},
    {"id": "a", "status": "Extracting", "progressDetail": {"current": 200, "units": "s"}},
    {"id": "b", "status": "Download complete", "progressDetail": {"hidecounts": True}},
    {"id": "a", "status": "Pull complete", "progressDetail": {"hidecounts": True}},
    {"id": "b", "status": "Pull complete", "progressDetail": {"hidecounts": True}},
]
LONG = {"pull": 3600, "healthy": 1, "min_healthy": 0}
IMAGE = {"RootFS": {"Layers": ["sha256:1", "sha256:2"]}}


class Reports(list[tuple[Any, ...]]):
    def __call__(self, *news: Any) -> None:
        self.append(news)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulls, "PAUSE", 0)


GONE = "Get https://registry.lab:5201/v2/: dial tcp 10.0.0.1:5201: connect: connection refused"
UNREACHABLE = [
    GONE,
    "Get https://registry.lab:5201/v2/: dial tcp 10.0.0.1:5201: connect: no route to host",
    "read tcp 10.0.0.2:41000->10.0.0.1:5201: read: connection reset by peer",
    "read tcp 10.0.0.2:41000->10.0.0.1:5201: i/o timeout",
    "net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)",
    "net/http: TLS handshake timeout",
]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses of a pull, which take no time but count as if they did."""
    pauses: list[float] = []
    time = SimpleNamespace(monotonic=lambda: sum(pauses), sleep=pauses.append)
    monkeypatch.setattr(pulls, "time", time)
    return pauses


def an_image(**over: Any) -> dict[str, Any]:
    return {"reference": REFERENCE, "tag": "t:1", "platform": "linux/amd64", "rootfs": [], "bytes": 0} | over


def test_progress_sums_bytes_over_the_layers() -> None:
    layers = pulls.PullProgress()
    seen = []
    for news in STREAM:
        layers.update(news)
        seen.append((layers.done, layers.total, layers.step))
    assert seen[1:4] == [(10, 100, "pulling"), (15, 150, "pulling"), (65, 150, "pulling")]
    assert seen[6:8] == [(150, 150, "unpacking layer 1 of 2"), (150, 150, "unpacking layer 2 of 2")]


def test_progress_with_containerds_image_store() -> None:
    layers = pulls.PullProgress()
    seen = []
    for news in CONTAINERD_STREAM:
        layers.update(news)
        seen.append((layers.done, layers.total, layers.step))
    assert seen[1:6] == [(done, total, "pulling") for done, total in [(40, 100), (50, 150), *[(110, 150)] * 3]]
    assert seen[6:] == [(150, 150, f"unpacking layer {number} of 2") for number in (1, 2, 2)]


def test_the_name_of_the_image_in_the_stream_is_no_layer() -> None:
    layers = pulls.PullProgress()
    layers.update({"id": "sha256:…", "status": "Pulling from provisioner/lab"})
    layers.update({"id": "a", "status": "Download complete"})
    assert layers.step == "unpacking layer 1 of 1"


def test_a_pull_requests_digest_and_platform_and_reports_bytes(tmp_path: Path, engine: FakeEngine) -> None:
    engine.pulls, engine.brings = [STREAM], (REFERENCE, IMAGE)
    reports = Reports()
    pulls.pull(an_order(tmp_path, image=an_image(bytes=150)), reports)
    (create,) = [request for request in engine.requests if "create" in request]
    assert "fromImage=registry.lab%3A5201%2Fprovisioner%2Flab&tag=sha256%3Aaaaa" in create
    assert create.endswith("platform=linux%2Famd64")
    assert ("pulling", 65, 150) in reports
    assert ("unpacking layer 2 of 2", 150, 150) in reports


def test_a_present_image_is_not_pulled_again(tmp_path: Path, engine: FakeEngine) -> None:
    engine.images[REFERENCE] = IMAGE
    pulls.pull(an_order(tmp_path, image=an_image(rootfs=["sha256:1", "sha256:2"])), Reports())
    assert not any("create" in request for request in engine.requests)


def test_an_image_of_another_platform_is_pulled_again(tmp_path: Path, engine: FakeEngine) -> None:
    """Somebody has pulled it with --platform, into containerd's image store."""
    engine.images[REFERENCE] = {"Os": "", "Architecture": "", "RootFS": {}, "Config": None}
    engine.pulls, engine.brings = [STREAM], (REFERENCE, IMAGE)
    pulls.pull(an_order(tmp_path, image=an_image(rootfs=["sha256:1", "sha256:2"])), Reports())
    assert engine.images[REFERENCE] == IMAGE


@pytest.mark.parametrize("broken", [[{"error": "unexpected EOF"}], 500])
def test_an_interrupted_pull_is_retried_once(tmp_path: Path, engine: FakeEngine, broken: Any) -> None:
    engine.pulls, engine.brings = [broken, STREAM], (REFERENCE, IMAGE)
    reports = Reports()
    pulls.pull(an_order(tmp_path), reports)
    assert any(str(news[0]).startswith("retrying: ") for news in reports)


def test_a_pull_that_fails_twice_reports_the_message_of_the_engine(tmp_path: Path, engine: FakeEngine) -> None:
    engine.pulls = [[{"error": "unexpected EOF"}], 404]
    with pytest.raises(ProblemError, match="manifest unknown") as caught:
        pulls.pull(an_order(tmp_path), Reports())
    assert caught.value.problem["code"] == "pull_failed"  # type: ignore[attr-defined]
    assert engine.pulls == []


def test_an_image_that_is_missing_after_a_pull_is_not_pulled_again_and_again(
    tmp_path: Path, engine: FakeEngine
) -> None:
    engine.pulls = [STREAM, STREAM]
    with pytest.raises(ProblemError, match="does not have it after the pull"):
        pulls.pull(an_order(tmp_path, deadlines=LONG), Reports())
    assert engine.pulls == [STREAM]


@pytest.mark.parametrize("message", UNREACHABLE)
def test_a_registry_that_does_not_answer_is_waited_for(
    tmp_path: Path, engine: FakeEngine, clock: list[float], message: str
) -> None:
    engine.pulls, engine.brings = [*[[{"error": message}]] * 14, STREAM], (REFERENCE, IMAGE)
    reports = Reports()
    pulls.pull(an_order(tmp_path, deadlines=LONG), reports)
    waits = [news[0] for news in reports if "waiting" in news[0]]
    assert (waits[0], len(waits)) == ("the registry does not answer: waiting for it, up to 225 s more", 14)
    assert waits[-1].endswith("up to 30 s more")
    assert sum(clock) == 14 * pulls.REGISTRY_PAUSE


def test_a_registry_that_stays_away_fails_the_pull_after_the_wait_and_one_more_try(
    tmp_path: Path, engine: FakeEngine, clock: list[float]
) -> None:
    engine.pulls = [[{"error": GONE}] for _ in range(40)]
    with pytest.raises(ProblemError, match="connection refused"):
        pulls.pull(an_order(tmp_path, deadlines=LONG), Reports())
    assert sum(clock) == pulls.REGISTRY_WAIT
    assert len(engine.pulls) == 40 - 15 - pulls.TRIES


def test_the_wait_for_a_registry_ends_with_the_deadline_of_the_pull(
    tmp_path: Path, engine: FakeEngine, clock: list[float]
) -> None:
    engine.pulls = [[{"error": GONE}] for _ in range(40)]
    with pytest.raises(ProblemError, match="connection refused"):
        pulls.pull(an_order(tmp_path, deadlines={**LONG, "pull": 50}), Reports())
    assert sum(clock) == 45


def test_time_in_which_bytes_came_is_not_taken_from_the_wait(
    tmp_path: Path, engine: FakeEngine, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = engine.answer

    def answer(method: str, path: str, query: Any) -> Any:
        clock.append(100 if "images" in path else 0)  # each try takes so long
        return answers(method, path, query)

    monkeypatch.setattr(engine, "answer", answer)
    broken = [downloading("b", 10, 100), {"error": GONE}]
    engine.pulls, engine.brings = [*[broken] * 5, STREAM], (REFERENCE, IMAGE)
    reports = Reports()
    pulls.pull(an_order(tmp_path, deadlines=LONG), reports)
    assert [news[0][-10:] for news in reports if "waiting" in news[0]] == [f"{s} s more" for s in range(225, 150, -15)]


@pytest.mark.parametrize("message", ["manifest unknown", "unauthorized: authentication required", "toomanyrequests"])
def test_a_registry_that_answers_no_is_not_waited_for(
    tmp_path: Path, engine: FakeEngine, clock: list[float], message: str
) -> None:
    engine.pulls = [[{"error": message}] for _ in range(9)]
    with pytest.raises(ProblemError, match=message):
        pulls.pull(an_order(tmp_path, deadlines=LONG), Reports())
    assert (sum(clock), len(engine.pulls)) == (0, 9 - pulls.TRIES)


def test_a_pull_that_goes_on_counts_only_the_layers_that_were_missing(tmp_path: Path, engine: FakeEngine) -> None:
    first = [downloading("a", 40, 100), {"id": "a", "status": "Pull complete"}, {"error": "unexpected EOF"}]
    again = [{"id": "a", "status": "Already exists"}, *STREAM[2:]]
    engine.pulls, engine.brings = [first, again], (REFERENCE, IMAGE)
    reports = Reports()
    pulls.pull(an_order(tmp_path), reports)
    assert reports[-1] == ("unpacking layer 2 of 2", 150, 150)


def test_a_pull_waits_for_an_engine_that_was_killed(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine drops the pull, refuses requests for a while, and then answers again."""
    silence = iter([404, 500, 500])
    answers = engine.answer

    def answer(method: str, path: str, query: Any) -> Any:
        status = next(silence, None) if path != "/info" else None
        return (status, {"message": "starting"}) if status else answers(method, path, query)

    monkeypatch.setattr(engine, "answer", answer)
    monkeypatch.setattr(module_util("docker.engine").time, "sleep", lambda _: None)
    engine.pulls, engine.brings = [[{"error": "unexpected EOF"}], STREAM], (REFERENCE, IMAGE)
    pulls.pull(an_order(tmp_path), Reports())
    assert engine.pulls == []


def test_a_full_disk_during_a_pull_is_reported_with_the_message_of_the_engine(
    tmp_path: Path, engine: FakeEngine
) -> None:
    full = [{"error": "failed to register layer: write /usr/lib/libtorch.so: no space left on device"}]
    engine.pulls = [full, full]
    with pytest.raises(ProblemError, match="no space left on device"):
        pulls.pull(an_order(tmp_path), Reports())
    assert engine.images == {}


def test_a_pull_without_messages_fails_at_the_stall_limit(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silence(list[Any]):
        def __iter__(self) -> Any:
            import time  # noqa: PLC0415

            time.sleep(0.3)
            return iter(())

    monkeypatch.setattr(pulls, "STALL", 0.1)
    monkeypatch.setattr(pulls, "TRIES", 1)
    engine.pulls = [Silence()]
    with pytest.raises(ProblemError, match="connection was lost"):
        pulls.pull(an_order(tmp_path), Reports())


def test_a_layer_without_progress_fails_at_the_stall_limit_though_its_messages_are_repeated(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With containerd's image store an engine repeats the state of each layer ten times a second."""
    ended = threading.Event()

    class Repeating(list[Any]):
        def __iter__(self) -> Any:
            while not ended.wait(0.02):
                yield downloading("b", 99, 100)

    monkeypatch.setattr(pulls, "STALL", 0.2)
    monkeypatch.setattr(pulls, "TRIES", 1)
    engine.pulls = [Repeating()]
    try:
        with pytest.raises(ProblemError, match="no progress") as caught:
            pulls.pull(an_order(tmp_path, deadlines={"pull": 3, "healthy": 1, "min_healthy": 0}), Reports())
    finally:
        ended.set()
    assert caught.value.problem["code"] == "pull_failed"  # type: ignore[attr-defined]


def test_a_pull_that_stalls_near_the_end_fails_at_the_deadline(tmp_path: Path, engine: FakeEngine) -> None:
    ended = threading.Event()

    class Stalling(list[Any]):
        def __iter__(self) -> Any:
            yield downloading("b", 99, 100)
            ended.wait(pulls.STALL / 10)

    engine.pulls = [Stalling()]
    reports = Reports()
    with pytest.raises(ProblemError, match="connection was lost: Timeout") as caught:
        pulls.pull(an_order(tmp_path, deadlines={"pull": 0.3, "healthy": 1, "min_healthy": 0}), reports)
    ended.set()
    assert caught.value.problem["code"] == "pull_failed"  # type: ignore[attr-defined]
    assert reports[-1] == ("pulling", 99, 100)


def test_layers_that_differ_from_the_lock_are_refused(tmp_path: Path, engine: FakeEngine) -> None:
    engine.pulls, engine.brings = [STREAM], (REFERENCE, IMAGE)
    with pytest.raises(ProblemError, match="differ from the lock") as caught:
        pulls.pull(an_order(tmp_path, image=an_image(rootfs=["sha256:1", "sha256:9"])), Reports())
    assert caught.value.problem["code"] == "rootfs_mismatch"  # type: ignore[attr-defined]


def test_a_pull_past_its_deadline_reports_its_bytes(tmp_path: Path, engine: FakeEngine) -> None:
    engine.pulls = [STREAM]
    deadlines = {"pull": -1, "healthy": 1, "min_healthy": 0}
    with pytest.raises(ProblemError, match=r"timed out after 0\.00 of 0\.00 GB"):
        pulls.pull(an_order(tmp_path, deadlines=deadlines), Reports())


def test_credentials_of_docker_login_are_sent_in_the_header(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = base64.b64encode(b"student:pass:word").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"registry.lab:5201": {"auth": login}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    engine.pulls, engine.brings = [STREAM], (REFERENCE, IMAGE)
    pulls.pull(an_order(tmp_path), Reports())
    (header,) = [h["X-Registry-Auth"] for h in engine.headers if "X-Registry-Auth" in h]
    assert json.loads(base64.urlsafe_b64decode(header)) == {"username": "student", "password": "pass:word"}
