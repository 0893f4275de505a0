"""Every test moves the clock itself."""

from typing import Any

import pytest

from provisioner.console.progress import LiveProgress, PlainProgress, told
from provisioner.domain.values.event import Event
from tests.console.screen import drawn


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def news(kind: str = "progress", node: str | None = "n1", phase: str = "stage", **more: Any) -> Event:
    return Event.model_validate({"phase": phase, "kind": kind, "node": node, **more})


def pulled(node: str, done: int) -> Event:
    return news(node=node, text="pulling", done=done, total=4_000_000_000, unit="B")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_one_line_per_node_and_change_of_phase(clock: Clock) -> None:
    plain = PlainProgress(clock)
    events = [news("started"), pulled("n1", 1), pulled("n1", 2), news("done"), news("started", phase="switch")]
    assert [text for event in events for text in plain.lines(event)] == ["n1: stage", "n1: stage done", "n1: switch"]


def test_progress_is_summed_up_every_ten_seconds_at_most(clock: Clock) -> None:
    plain = PlainProgress(clock)
    said = []
    for second in range(60):
        clock.now = second
        for node in ("n1", "n2"):
            said += [(second, text) for text in plain.lines(pulled(node, second * 50_000_000))]
    assert said[:2] == [(0, "n1: stage: pulling"), (0, "n2: stage: pulling")]
    assert said[2:] == [
        (10, "still staging n[1-2]; 950 MB of 8 GB  10 s"),
        (20, "still staging n[1-2]; 1.95 GB of 8 GB  20 s"),
        (30, "still staging n[1-2]; 2.95 GB of 8 GB  30 s"),
        (40, "still staging n[1-2]; 3.95 GB of 8 GB  40 s"),
        (50, "still staging n[1-2]; 4.95 GB of 8 GB  50 s"),
    ]


def test_silence_never_means_death(clock: Clock) -> None:
    plain = PlainProgress(clock)
    assert list(plain.tick()) == []
    assert list(plain.lines(news("started", node=None, phase="build", text="building x"))) == ["build: building x"]
    clock.now = 9
    assert list(plain.tick()) == []
    clock.now = 31
    assert list(plain.tick()) == ["building x  31 s"]
    assert list(plain.lines(news("done", node=None, phase="build"))) == ["build done"]
    clock.now = 100
    assert list(plain.tick()) == [], "nothing goes on, so nothing is said"


def test_the_rate_is_that_of_the_last_seconds(clock: Clock) -> None:
    live = LiveProgress(clock)
    for second, done in enumerate([*range(0, 2_000_000_000, 100_000_000), *[1_900_000_000] * 11]):
        clock.now = second
        live.news(pulled("n1", done))
        if second == 15:
            assert drawn(live.view(5)) == "  n1  staging  pulling  1.5 GB of 4 GB, 100 MB/s  15 s"
    assert drawn(live.view(5)) == "  n1  staging  pulling  1.9 GB of 4 GB, 0 B/s  30 s"


def test_a_screen_holds_only_so_many_nodes(clock: Clock) -> None:
    live = LiveProgress(clock)
    for number in range(200):
        live.news(news("started", node=f"n{number}"))
    lines = drawn(live.view(10)).splitlines()
    assert len(lines) == 10
    assert lines[-1] == "  and 191 more nodes"
    for number in range(195):
        assert live.news(news("done", node=f"n{number}")) == f"n{number}: stage done"
    assert len(drawn(live.view(10)).splitlines()) == 5


def test_a_line_is_never_wider_than_the_screen(clock: Clock) -> None:
    live = LiveProgress(clock)
    live.news(news("started", text="x" * 300))
    (text,) = drawn(live.view(10), 60).splitlines()
    assert len(text) == 60
    assert text.endswith("…")


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (news("failed", text="no route\nto host"), "n1: stage failed: no route\\nto host"),
        (news("done", phase="report", text="committed"), "n1: committed"),
        (news("failed", phase="report", text="rolled_back"), "n1: failed: rolled_back"),
        (news("note", node=None, text="a word"), "stage: a word"),
        (news("skipped", node=None, phase="build", text="made before"), "build skipped: made before"),
        (news("started", node="n\x1b[2J"), "n\\x1b[2J: stage"),
    ],
)
def test_an_event_as_a_line(event: Event, text: str) -> None:
    assert told(event) == text
