import json
import re
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from provisioner.adapters.state.files import state_home
from provisioner.adapters.state.journal import (
    RunJournal,
    events,
    open_run,
    read_report,
    read_run_spec,
    reopen_run,
    run_spec_names,
)
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.values.event import Event, Recorded
from provisioner.domain.values.problem import ProblemError

EVENT = Event(phase="stage", kind="progress", node="n1", done=1, total=2, unit="B")


def read(path: str) -> list[Recorded]:
    lines = (state_home() / "demo" / "runs" / path / "events.jsonl").read_text().splitlines()
    return [Recorded.model_validate_json(text) for text in lines]


def test_what_is_shown_was_written_down_before() -> None:
    seen: list[tuple[Event, int]] = []
    run = open_run("demo")
    on_event = run.telling(lambda event: seen.append((event, len(read(run.run)))))
    on_event(EVENT)
    on_event(Event(phase="report", kind="done", node="n1", text="a\nb"))
    assert [number for _, number in seen] == [1, 2]
    assert [(entry.seq, entry.event) for entry in read(run.run)] == [(1, EVENT), (2, seen[1][0])]


def test_events_of_many_threads_stay_whole_and_in_order() -> None:
    run = open_run("demo")
    with ThreadPoolExecutor(8) as workers:
        list(workers.map(run.record, [EVENT] * 50))
    assert [entry.seq for entry in read(run.run)] == list(range(1, 51))


def test_runs_are_named_by_the_clock_and_seen_by_their_owner_alone() -> None:
    runs = [open_run("demo") for _ in range(3)]
    assert len({run.run for run in runs}) == 3
    assert all(re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{4}", run.run) for run in runs)
    kept = runs[0].keep("plan", Plan(lab="demo", image=None, steps=()))
    assert json.loads(kept.read_text())["schema"] == "provisioner/plan/1"
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (kept.parent, *kept.parent.iterdir())]
    assert modes == [0o700, 0o600, 0o600]


def test_no_record_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/none")
    with pytest.raises(ProblemError, match="journal_unwritable"):
        open_run("demo")


def test_no_record_no_act() -> None:
    shown: list[Event] = []
    folder = open_run("demo").folder
    (folder / "events.jsonl").unlink()
    (folder / "events.jsonl").symlink_to("/dev/full")
    with pytest.raises(ProblemError, match="journal_unwritable"):
        RunJournal(folder).telling(shown.append)(EVENT)
    assert shown == []


def test_a_run_that_is_opened_again_goes_on_with_what_is_whole() -> None:
    run = open_run("demo")
    run.record(EVENT)
    with (run.folder / "events.jsonl").open("a") as file:
        file.write('{"seq": 2, "at": "2026-')
    again = reopen_run(run.folder)
    again.record(EVENT)
    assert [entry.seq for entry in events(run.folder)] == [1, 2]
    assert again.run == run.run


def test_only_runs_that_had_begun_are_found_and_a_damaged_one_is_told() -> None:
    one, _two = open_run("demo"), open_run("demo")
    one.keep("undertaking", Plan(lab="demo", image=None, steps=()))
    assert run_spec_names("demo") == [one.folder]
    assert read_report(one.folder) is None
    with pytest.raises(ProblemError, match="journal_damaged"):
        read_run_spec(one.folder)
    one.forget("undertaking")
    assert run_spec_names("demo") == []
