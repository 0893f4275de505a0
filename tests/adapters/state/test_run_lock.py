"""One run at a time on a lab: the kernel's lock, a note of who holds it, and taking over."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from provisioner.adapters.state.files import state_home
from provisioner.adapters.state.run_lock import Holder, holding, in_turn
from provisioner.domain.values.problem import ProblemError


def a_holder(run: str) -> Holder:
    return Holder(run=run, verb="rollout", holder="ann@control1", since="2026-11-26T21:00:00+00:00", pid=4711)


def test_a_second_run_is_refused_and_told_who_is_there() -> None:
    with holding("demo", a_holder("r1")):
        with pytest.raises(ProblemError) as caught, holding("demo", a_holder("r2")):
            pass
        (problem,) = caught.value.problems
        with holding("other", a_holder("r3")):
            pass
    assert (caught.value.ending, problem.code) == ("locked", "locked")
    for told in ("rollout", "run r1", "ann@control1", "process 4711", "2026-11-26T21:00:00"):
        assert told in problem.what
    assert problem.fix.endswith("--break-lock r1")
    with holding("demo", a_holder("r2")):
        pass


def test_only_the_run_that_is_named_is_taken_over_from_and_then_others_meet_the_new_one() -> None:
    with holding("demo", a_holder("r1")):
        with pytest.raises(ProblemError), holding("demo", a_holder("r2"), breaks="r9"):
            pass
        with (
            holding("demo", a_holder("r2"), breaks="r1"),
            pytest.raises(ProblemError, match="run r2"),
            holding("demo", a_holder("r3")),
        ):
            pass
    with holding("demo", a_holder("r4")):
        pass


def test_a_longer_note_of_a_dead_holder_leaves_nothing_behind() -> None:
    with holding("demo", a_holder("r" * 100)):
        pass
    with holding("demo", a_holder("r2")):
        assert Holder.model_validate_json((state_home() / "demo" / "lock").read_text()).run == "r2"


def test_one_that_has_not_yet_said_who_it_is_is_in_the_way_too() -> None:
    with holding("demo", a_holder("r1")):
        (state_home() / "demo" / "lock").write_text("")
        with pytest.raises(ProblemError, match="another run is at this lab"), holding("demo", a_holder("r2")):
            pass


def test_without_a_lock_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/none")
    with pytest.raises(ProblemError, match="lock_unusable"), holding("demo", a_holder("r1")):
        pass


def test_who_takes_turns_waits_for_whoever_is_there_and_says_so() -> None:
    order, waiting = list[str](), threading.Event()

    def second() -> None:
        with in_turn("demo", waiting.set):
            order.append("second")

    with ThreadPoolExecutor(1) as pool:
        with in_turn("demo", lambda: pytest.fail("nobody is there")):
            other = pool.submit(second)
            waiting.wait()
            order.append("first")
        other.result()
    assert order == ["first", "second"]
