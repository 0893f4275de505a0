"""Progress in plain lines and as a live view; each test sets the clock."""

from typing import Any

import pytest

from provisioner.console.progress import LiveProgress, PlainProgress, event_line
from provisioner.domain.values.event import Event
from tests.console.screen import render_text


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def an_event(kind: str = "progress", node: str | None = "n1", phase: str = "stage", **more: Any) -> Event:
    return Event.model_validate({"phase": phase, "kind": kind, "node": node, **more})


def pulled(node: str, done: int) -> Event:
    return an_event(node=node, text="pulling", done=done, total=4_000_000_000, unit="B")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_plain_progress_has_one_line_per_node_and_change_of_phase(clock: Clock) -> None:
    plain = PlainProgress(clock)
    events = [
        an_event("started"),
        pulled("n1", 1),
        pulled("n1", 2),
        an_event("done"),
        an_event("started", phase="switch"),
    ]
    assert [text for event in events for text in plain.add(event)] == ["n1: stage", "n1: stage done", "n1: switch"]


def test_plain_progress_has_a_summary_every_ten_seconds(clock: Clock) -> None:
    plain = PlainProgress(clock)
    printed = []
    for second in range(60):
        clock.now = second
        for node in ("n1", "n2"):
            printed += [(second, text) for text in plain.add(pulled(node, second * 50_000_000))]
    assert printed[:2] == [(0, "n1: stage: pulling"), (0, "n2: stage: pulling")]
    assert printed[2:] == [
        (10, "still staging n[1-2]; 950 MB of 8 GB  10 s"),
        (20, "still staging n[1-2]; 1.95 GB of 8 GB  20 s"),
        (30, "still staging n[1-2]; 2.95 GB of 8 GB  30 s"),
        (40, "still staging n[1-2]; 3.95 GB of 8 GB  40 s"),
        (50, "still staging n[1-2]; 4.95 GB of 8 GB  50 s"),
    ]


def test_a_silent_run_prints_a_line_while_work_continues(clock: Clock) -> None:
    plain = PlainProgress(clock)
    assert list(plain.tick()) == []
    assert list(plain.add(an_event("started", node=None, phase="build", text="building x"))) == ["build: building x"]
    clock.now = 9
    assert list(plain.tick()) == []
    clock.now = 31
    assert list(plain.tick()) == ["building x  31 s"]
    assert list(plain.add(an_event("done", node=None, phase="build"))) == ["build done"]
    clock.now = 100
    assert list(plain.tick()) == [], "no work continues, so nothing is printed"


def test_the_rate_is_of_the_last_ten_seconds(clock: Clock) -> None:
    live = LiveProgress(clock)
    for second, done in enumerate([*range(0, 2_000_000_000, 100_000_000), *[1_900_000_000] * 11]):
        clock.now = second
        live.add(pulled("n1", done))
        if second == 15:
            assert render_text(live.view(5)) == "  n1  staging  pulling  1.5 GB of 4 GB, 100 MB/s  15 s"
    assert render_text(live.view(5)) == "  n1  staging  pulling  1.9 GB of 4 GB, 0 B/s  30 s"


def test_the_live_view_has_at_most_the_given_height(clock: Clock) -> None:
    live = LiveProgress(clock)
    for number in range(200):
        live.add(an_event("started", node=f"n{number}"))
    lines = render_text(live.view(10)).splitlines()
    assert len(lines) == 10
    assert lines[-1] == "  and 191 more nodes"
    for number in range(195):
        assert live.add(an_event("done", node=f"n{number}")) == f"n{number}: stage done"
    assert len(render_text(live.view(10)).splitlines()) == 5


def test_a_line_of_the_live_view_is_cut_at_the_width(clock: Clock) -> None:
    live = LiveProgress(clock)
    live.add(an_event("started", text="x" * 300))
    (text,) = render_text(live.view(10), 60).splitlines()
    assert len(text) == 60
    assert text.endswith("…")


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (an_event("failed", text="no route\nto host"), "n1: stage failed: no route\\nto host"),
        (an_event("done", phase="report", text="committed"), "n1: committed"),
        (an_event("failed", phase="report", text="rolled_back"), "n1: failed: rolled_back"),
        (an_event("note", node=None, text="a note"), "stage: a note"),
        (an_event("skipped", node=None, phase="build", text="made before"), "build skipped: made before"),
        (an_event("started", node="n\x1b[2J"), "n\\x1b[2J: stage"),
    ],
)
def test_an_event_as_a_line(event: Event, text: str) -> None:
    assert event_line(event) == text
