import json
import re
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.adapters.state.files import state_home
from provisioner.adapters.state.journal import (
    RunJournal,
    events,
    list_started_runs,
    open_run,
    read_report,
    read_run_spec,
    reopen_run,
)
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.values.event import Event, RecordedEvent
from provisioner.domain.values.problem import ProblemError

EVENT = Event(phase="stage", kind="progress", node="n1", done=1, total=2, unit="B")


def read(path: str) -> list[RecordedEvent]:
    lines = (state_home() / "demo" / "runs" / path / "events.jsonl").read_text().splitlines()
    return [RecordedEvent.model_validate_json(text) for text in lines]


def test_an_event_is_recorded_before_it_is_shown() -> None:
    seen: list[tuple[Event, int]] = []
    run = open_run("demo")
    on_event = run.recording(lambda event: seen.append((event, len(read(run.run)))))
    on_event(EVENT)
    on_event(Event(phase="report", kind="done", node="n1", text="a\nb"))
    assert [number for _, number in seen] == [1, 2]
    assert [(entry.seq, entry.event) for entry in read(run.run)] == [(1, EVENT), (2, seen[1][0])]


def test_events_of_several_threads_are_complete_and_in_order() -> None:
    run = open_run("demo")
    with ThreadPoolExecutor(8) as workers:
        list(workers.map(run.record, [EVENT] * 50))
    assert [entry.seq for entry in read(run.run)] == list(range(1, 51))


def test_runs_are_named_by_time_and_readable_by_their_owner_alone() -> None:
    runs = [open_run("demo") for _ in range(3)]
    assert len({run.run for run in runs}) == 3
    assert all(re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{4}", run.run) for run in runs)
    path = runs[0].keep("plan", Plan(lab="demo", image=None, steps=()))
    assert json.loads(path.read_text())["schema"] == "provisioner/plan/2"
    modes = [stat.S_IMODE(file.stat().st_mode) for file in (path.parent, *path.parent.iterdir())]
    assert modes == [0o700, 0o600, 0o600]


def test_no_run_starts_without_a_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/none")
    with pytest.raises(ProblemError, match="journal_unwritable"):
        open_run("demo")


def test_an_event_that_cannot_be_recorded_is_not_shown() -> None:
    shown: list[Event] = []
    folder = open_run("demo").folder
    (folder / "events.jsonl").unlink()
    (folder / "events.jsonl").symlink_to("/dev/full")
    with pytest.raises(ProblemError, match="journal_unwritable"):
        RunJournal(folder).recording(shown.append)(EVENT)
    assert shown == []


def test_a_reopened_journal_continues_after_the_last_complete_event() -> None:
    run = open_run("demo")
    run.record(EVENT)
    with (run.folder / "events.jsonl").open("a") as file:
        file.write('{"seq": 2, "at": "2026-')
    again = reopen_run(run.folder)
    again.record(EVENT)
    assert [entry.seq for entry in events(run.folder)] == [1, 2]
    assert again.run == run.run


def test_only_started_runs_are_listed_and_a_damaged_one_is_reported() -> None:
    one, _two = open_run("demo"), open_run("demo")
    one.keep("undertaking", Plan(lab="demo", image=None, steps=()))
    assert list_started_runs("demo") == [one.folder]
    assert read_report(one.folder) is None
    with pytest.raises(ProblemError, match="journal_damaged"):
        read_run_spec(one.folder)
    one.forget("undertaking")
    assert list_started_runs("demo") == []


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\r"])
def test_an_event_keeps_every_character_of_its_text(separator: str) -> None:
    run = open_run("demo")
    event = Event(phase="report", kind="done", node="n1", text=f"a{separator}b", data={"record": {"x": separator}})
    run.record(event)
    run.record(EVENT)
    assert [entry.event for entry in events(run.folder)] == [event, EVENT]


@given(st.lists(st.text(), max_size=4), st.binary(max_size=30))
def test_every_journal_is_read_back_whatever_a_power_cut_left_at_its_end(texts: list[str], torn: bytes) -> None:
    run = open_run("demo")
    for text in texts:
        run.record(EVENT.model_copy(update={"text": text}))
    with (run.folder / "events.jsonl").open("ab") as file:
        file.write(torn.replace(b"\n", b""))
    run = reopen_run(run.folder)
    run.record(EVENT)
    assert [entry.event.text for entry in events(run.folder)] == [*texts, ""]


def test_runs_are_in_order_though_the_clock_is_set_back() -> None:
    first = open_run("demo")
    ahead = first.folder.with_name("20991231T235959Z-ffff")
    first.folder.rename(ahead)
    names = [ahead.name, *(open_run("demo").run for _ in range(2))]
    assert names == sorted(names)
    first.folder.with_name("not-a-run").mkdir()
    assert open_run("demo").run > names[-1]
