"""One run at a time on a lab: the file lock, its holder, and taking over."""

import os
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from provisioner.adapters.state.files import state_home, write_text
from provisioner.adapters.state.journal import open_run
from provisioner.adapters.state.run_lock import Holder, hold_run_lock, hold_seat_lock
from provisioner.domain.values.problem import ProblemError


def a_holder(run: str) -> Holder:
    return Holder(run=run, verb="rollout", holder="ann@control1", since="2026-11-26T21:00:00+00:00", pid=4711)


def test_a_second_run_is_refused_with_the_name_of_the_first() -> None:
    with hold_run_lock("demo", a_holder("r1")):
        with pytest.raises(ProblemError) as caught, hold_run_lock("demo", a_holder("r2")):
            pass
        (problem,) = caught.value.problems
        with hold_run_lock("other", a_holder("r3")):
            pass
    assert (caught.value.ending, problem.code) == ("locked", "locked")
    for text in ("rollout", "run r1", "ann@control1", "process 4711", "2026-11-26T21:00:00"):
        assert text in problem.what
    assert problem.fix.endswith("--break-lock r1")
    with hold_run_lock("demo", a_holder("r2")):
        pass


def test_only_the_named_run_is_taken_over_and_the_new_run_holds_the_lock() -> None:
    with hold_run_lock("demo", a_holder("r1")):
        with pytest.raises(ProblemError), hold_run_lock("demo", a_holder("r2"), breaks="r9"):
            pass
        with (
            hold_run_lock("demo", a_holder("r2"), breaks="r1"),
            pytest.raises(ProblemError, match="run r2"),
            hold_run_lock("demo", a_holder("r3")),
        ):
            pass
    with hold_run_lock("demo", a_holder("r4")):
        pass


def test_a_new_holder_overwrites_the_longer_text_of_an_ended_one() -> None:
    with hold_run_lock("demo", a_holder("r" * 100)):
        pass
    with hold_run_lock("demo", a_holder("r2")):
        assert Holder.model_validate_json((state_home() / "demo" / "lock").read_text()).run == "r2"


def test_a_lock_without_a_holder_text_also_refuses_a_second_run() -> None:
    with hold_run_lock("demo", a_holder("r1")):
        (state_home() / "demo" / "lock").write_text("")
        with (
            pytest.raises(ProblemError, match="another run is changing this lab"),
            hold_run_lock("demo", a_holder("r2")),
        ):
            pass


def test_a_holder_that_writes_its_name_a_moment_after_it_took_the_lock_is_named() -> None:
    with hold_run_lock("demo", a_holder("r1")):
        lock = state_home() / "demo" / "lock"
        lock.write_text("")
        late = threading.Timer(0.1, lock.write_text, [a_holder("r1").model_dump_json()])
        late.start()
        with pytest.raises(ProblemError, match="run r1 is changing"), hold_run_lock("demo", a_holder("r2")):
            pass
        late.join()


def test_no_run_starts_without_a_lock_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/none")
    with pytest.raises(ProblemError, match="lock_unusable"), hold_run_lock("demo", a_holder("r1")):
        pass


def test_the_seat_lock_waits_for_its_holder_and_reports_it() -> None:
    order, waiting = list[str](), threading.Event()

    def second() -> None:
        with hold_seat_lock("demo", waiting.set):
            order.append("second")

    with ThreadPoolExecutor(1) as pool:
        with hold_seat_lock("demo", lambda: pytest.fail("the lock is free")):
            other = pool.submit(second)
            waiting.wait()
            order.append("first")
        other.result()
    assert order == ["first", "second"]


@pytest.mark.parametrize("_", range(5))
def test_of_many_runs_that_take_over_at_once_one_wins(_: int) -> None:
    together, won, lost = threading.Barrier(8), list[str](), list[str]()
    end = threading.Event()

    def take(run: str) -> None:
        together.wait()
        try:
            with hold_run_lock("demo", a_holder(run), breaks="r1"):
                won.append(run)
                end.wait(10)
        except ProblemError as error:
            lost.append(str(error))

    with hold_run_lock("demo", a_holder("r1")), ThreadPoolExecutor(8) as pool:
        taken = [pool.submit(take, f"r{number}") for number in range(2, 10)]
        while len(won) + len(lost) < 8:
            time.sleep(0.001)
        end.set()
        for future in taken:
            future.result()
    assert len(won) == 1
    assert all(won[0] in text for text in lost)


def test_folders_of_runs_are_private_whatever_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "a" / "state"))
    before = os.umask(0o002)
    try:
        with hold_run_lock("demo", a_holder("r1")):
            open_run("demo")
            write_text(state_home() / "traces" / "x", "y")
    finally:
        os.umask(before)
    folders = [tmp_path / "a", *(path for path in (tmp_path / "a").rglob("*") if path.is_dir())]
    assert len(folders) >= 7
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
