import errno
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import an_order

jobs, files, seats, hosts = (module_util(name) for name in ("jobs.job", "jobs.jobfile", "seat.seat", "base.host"))

pytestmark = pytest.mark.usefixtures("_short_waits")


@pytest.fixture
def seat(tmp_path: Path) -> Iterator[Any]:
    made = seats.seat_of(an_order(tmp_path))
    yield made
    for path in made.jobs.glob("*.json"):
        job = files.read_job(path)
        if job and files.is_alive(job):
            os.kill(job["pid"], signal.SIGKILL)


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 10
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def finished(path: Path) -> dict[str, Any]:
    job: dict[str, Any] = files.follow(path, 10)
    assert job["finished"]
    return job


def wait_for(path: Path) -> Callable[..., dict[str, Any]]:
    """Return work that runs until a file exists."""

    def work(job: Any, _lock: int) -> dict[str, Any]:
        job.report("waiting", 1, 2)
        until(path.exists)
        return {"state": "staged", "pid": os.getpid(), "sid": os.getsid(0)}

    return work


def test_a_job_is_a_detached_process_without_inherited_descriptors(seat: Any, tmp_path: Path) -> None:
    path = jobs.start(seat, "r1", "stage", wait_for(tmp_path / "go"))
    job = until(lambda: (files.read_job(path) or {})["text"] and files.read_job(path))
    assert (job["run"], job["phase"], job["done"], job["total"], job["unit"]) == ("r1", "stage", 1, 2, "B")
    open_files = {str(link.readlink()) for link in Path(f"/proc/{job['pid']}/fd").iterdir() if link.is_symlink()}
    assert open_files == {"/dev/null", str(seat.folder / "lock")}
    (tmp_path / "go").touch()
    record = finished(path)["record"]
    assert record["state"] == "staged"
    assert record["sid"] not in {os.getsid(0), record["pid"]}  # it can never get a controlling terminal
    assert record["seconds"] >= 0


def test_start_returns_the_job_of_the_same_run_and_refuses_another_run(seat: Any, tmp_path: Path) -> None:
    path = jobs.start(seat, "r1", "stage", wait_for(tmp_path / "go"))
    before = until(lambda: files.read_job(path))["pid"]
    assert jobs.start(seat, "r1", "stage", wait_for(tmp_path / "go")) == path
    assert files.read_job(path)["pid"] == before
    for run, kind in (("r2", "stage"), ("r1", "switch")):
        with pytest.raises(ProblemError, match="by run r1") as caught:
            jobs.start(seat, run, kind, wait_for(tmp_path / "go"))
        assert caught.value.problem["code"] == "seat_locked"  # type: ignore[attr-defined]
    (tmp_path / "go").touch()
    finished(path)
    until(lambda: not files.is_alive(files.read_job(path)))
    assert finished(_start_when_free(seat))["record"]["state"] == "unchanged"


def _start_when_free(seat: Any) -> Path:
    def attempt() -> Path | None:
        try:
            return jobs.start(seat, "r3", "stage", lambda *_: {"state": "unchanged"})  # type: ignore[no-any-return]
        except ProblemError:
            return None

    path: Path = until(attempt)
    return path


def test_a_killed_job_is_unknown_and_releases_its_lock(seat: Any, tmp_path: Path) -> None:
    path = jobs.start(seat, "r1", "switch", wait_for(tmp_path / "never"))
    os.kill(until(lambda: files.read_job(path))["pid"], signal.SIGKILL)
    job = finished(path)
    assert job["record"]["state"] == "unknown"
    assert [problem["code"] for problem in job["record"]["problems"]] == ["job_died"]
    _start_when_free(seat)


def test_the_lock_is_held_until_the_commands_of_the_job_end(
    seat: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(_job: Any, lock: int) -> dict[str, Any]:
        script = f"touch {tmp_path}/begun; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
        module_util("base.command").run(["sh", "-c", script], 60, keep=(lock,))
        return {"state": "staged"}

    path = jobs.start(seat, "r1", "switch", work)
    until((tmp_path / "begun").exists)
    os.kill(files.read_job(path)["pid"], signal.SIGKILL)
    until(lambda: not files.is_alive(files.read_job(path)))
    monkeypatch.setattr(jobs, "LOCK_WAIT_SECONDS", 0)
    with pytest.raises(ProblemError, match="a previous command is still running"):
        jobs.start(seat, "r2", "switch", work)
    (tmp_path / "go").touch()
    monkeypatch.setattr(jobs, "LOCK_WAIT_SECONDS", 10)
    assert finished(jobs.start(seat, "r2", "switch", work))["record"]["state"] == "staged"


def _breaks() -> dict[str, Any]:
    raise KeyError("missing")


@pytest.mark.parametrize(("kind", "state"), [("stage", "failed"), ("switch", "needs_attention")])
def test_an_unexpected_exception_is_recorded_with_its_traceback(seat: Any, kind: str, state: str) -> None:
    record = finished(jobs.start(seat, "r1", kind, lambda *_: _breaks()))["record"]
    assert record["state"] == state
    assert record["problems"][0]["code"] == "node_bug"
    assert "KeyError: 'missing'" in record["problems"][0]["what"]


def test_a_problem_error_becomes_the_problem_of_the_record(seat: Any) -> None:
    def work(*_: Any) -> dict[str, Any]:
        raise ProblemError("disk_full", "what", "why", "fix")

    record = finished(jobs.start(seat, "r1", "stage", work))["record"]
    assert record["problems"] == [{"code": "disk_full", "what": "what", "why": "why", "fix": "fix"}]


@pytest.mark.parametrize(
    ("state", "again"),
    [("committed", False), ("rolled_back", False), ("needs_attention", False), ("deferred", True), ("failed", True)],
)
def test_start_once_repeats_a_job_only_if_it_changed_nothing(seat: Any, state: str, again: bool) -> None:
    first = finished(jobs.start_once(seat, "r1", "switch", lambda *_: {"state": state}))
    until(lambda: not files.is_alive(first))
    second = finished(jobs.start_once(seat, "r1", "switch", lambda *_: {"state": "unchanged"}))
    assert second["record"]["state"] == ("unchanged" if again else state)


def test_a_job_that_cannot_write_its_file_is_reported_as_not_started(seat: Any) -> None:
    seat.make_folders()
    (seat.jobs / ".r1.stage.json.new").mkdir()
    with pytest.raises(ProblemError, match="did not start"):
        jobs.start(seat, "r1", "stage", lambda *_: {})


def test_a_reused_pid_does_not_count_as_the_job() -> None:
    job = {"pid": os.getpid(), "started": "1", "boot_id": hosts.boot_id(), "finished": False}
    assert not files.is_alive(job)


def test_a_job_from_before_a_reboot_is_not_alive(tmp_path: Path) -> None:
    files.Job(tmp_path / "j.json", "r1", "stage")
    job = json.loads((tmp_path / "j.json").read_text())
    assert files.is_alive(job)
    assert not files.is_alive(job | {"boot_id": "another"})


class Clock:
    """A clock that only sleep advances; `at` maps seconds to what happens then."""

    def __init__(self, at: dict[float, Callable[[], None]]) -> None:
        self._now, self._at = 0.0, at

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds
        for moment in [moment for moment in self._at if moment <= self._now]:
            self._at.pop(moment)()


@pytest.mark.parametrize(
    ("news", "text", "after"),
    [(("pulling", 50, 100), "pulling", 10), (("unpacking", 100, 100), "unpacking", 5), (None, "pulling", 1)],
)
def test_follow_returns_at_the_end_or_with_progress_after_half_of_its_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, news: tuple[str, int, int] | None, text: str, after: float
) -> None:
    job = files.Job(tmp_path / "j.json", "r1", "stage")
    job.report("pulling", 0, 100)
    happens = (lambda: job.report(*news)) if news else (lambda: job.finish({"state": "staged"}))
    clock = Clock({1.0: happens})
    monkeypatch.setattr(files, "time", clock)
    assert files.follow(tmp_path / "j.json", 10)["text"] == text
    assert after <= clock.monotonic() < after + 0.5


def test_a_missing_job_file_is_reported_as_unknown(tmp_path: Path) -> None:
    assert files.follow(tmp_path / "none.json", 0)["record"]["state"] == "unknown"


def test_a_job_file_that_cannot_be_read_is_unknown_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "j.json").mkdir()
    record = files.follow(tmp_path / "j.json", 0)["record"]
    assert (record["state"], record["problems"][0]["code"]) == ("unknown", "io_error")


@pytest.mark.parametrize("text", ["", "{", "3"])
def test_a_damaged_job_file_of_an_older_run_does_not_block_the_seat(seat: Any, text: str) -> None:
    seat.make_folders()
    (seat.jobs / "r0.stage.json").write_text(text)
    lock = os.open(seat.folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert jobs.running_job(seat) is None
    finally:
        os.close(lock)


@pytest.mark.parametrize("size", [10, 200_000])
def test_a_job_on_a_full_disk_writes_its_result_over_its_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    job = files.Job(tmp_path / "j.json", "r1", "switch")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_atomic", full)
    job.report("rolling back")
    before = (tmp_path / "j.json").stat()
    problem = {"code": "gpu_fails", "what": "x" * size, "why": "y", "fix": "z"}
    job.finish({"state": "rolled_back", "generation": 1, "problems": [problem]})
    after = (tmp_path / "j.json").stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    record = files.follow(tmp_path / "j.json", 0)["record"]
    assert (record["state"], record["generation"]) == ("rolled_back", 1)
    assert record["problems"] == [problem | {"what": "x" * min(size, files.SHORT)}]


def test_a_full_disk_in_a_job_is_an_io_error_and_no_bug(seat: Any) -> None:
    def work(*_: Any) -> dict[str, Any]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    record = finished(jobs.start(seat, "r1", "stage", work))["record"]
    assert (record["state"], record["problems"][0]["code"]) == ("failed", "io_error")


def test_a_report_that_says_nothing_new_is_not_written(tmp_path: Path) -> None:
    """While an engine unpacks a layer it says so ten times a second, with all bytes done."""
    job = files.Job(tmp_path / "j.json", "r1", "stage")
    written = []
    for news in [("unpacking layer 1 of 2", 100, 100)] * 20 + [("jupyter is running",)] * 5:
        job.report(*news)
        written.append((tmp_path / "j.json").stat().st_ino)
    changes = [number for number in range(1, 25) if written[number] != written[number - 1]]
    assert changes == [20]
    job.report("jupyter is running", phase="verify")
    assert files.read_job(tmp_path / "j.json")["phase"] == "verify"


def test_reports_that_differ_only_in_numbers_are_throttled(tmp_path: Path) -> None:
    job = files.Job(tmp_path / "j.json", "r1", "stage")
    for done in range(100):
        job.report("pulling", done, 100)
    assert files.read_job(tmp_path / "j.json")["done"] < 99
    job.report("pulling", 100, 100)
    assert files.read_job(tmp_path / "j.json")["done"] == 100
