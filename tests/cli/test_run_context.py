"""A run that is open: its events and its terminal."""

import pytest

from provisioner.adapters.state.journal import events, open_run
from provisioner.cli.output import Output
from provisioner.cli.run_context import OpenRun
from provisioner.domain.values.event import Event


def a_note(text: str) -> Event:
    return Event(phase="report", kind="note", text=text)


def test_an_event_is_always_recorded_and_shown_only_while_progress_is_open(capsys: pytest.CaptureFixture[str]) -> None:
    journal = open_run("demo")
    run = OpenRun.of(journal, Output())
    run.on_event(a_note("before"))
    with run.progress():
        run.on_event(a_note("meanwhile"))
    run.on_event(a_note("after"))
    assert [entry.event.text for entry in events(journal.folder)] == ["before", "meanwhile", "after"]
    shown = capsys.readouterr().err
    assert "meanwhile" in shown
    assert "before" not in shown
    assert "after" not in shown
