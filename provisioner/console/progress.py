"""A run while it goes on: on a terminal one living line per node at work, elsewhere plain lines, and never silence."""

from collections import deque
from collections.abc import Callable, Iterator

from rich.console import Group
from rich.text import Text

from provisioner.console.tables import folded
from provisioner.console.text import count, duration, line
from provisioner.domain.values.event import Event, Phase
from provisioner.domain.values.size import human_size

QUIET_SECONDS = 10.0
_RATE_WINDOW = 10.0  # seconds

_DOING: dict[Phase, str] = {
    "probe": "asking",
    "claim": "claiming the nodes",
    "catalog": "looking at the mirror",
    "lock": "pinning",
    "build": "building the lab image",
    "plan": "planning",
    "stage": "staging",
    "switch": "switching",
    "verify": "verifying",
    "notice": "telling",
    "report": "reporting",
    "prepare": "preparing",
}
_ENDED = {"done", "failed", "skipped"}


class Work:
    """What one node (or the run as a whole) is at. Times are the caller's clock, in seconds."""

    def __init__(self, event: Event, now: float) -> None:
        self.phase, self.since, self.event = event.phase, now, event
        self._samples: deque[tuple[float, int]] = deque()
        self.news(event, now)

    def news(self, event: Event, now: float) -> None:
        self.event = event
        if event.done is not None:
            self._samples.append((now, event.done))
            while now - self._samples[0][0] > _RATE_WINDOW:
                self._samples.popleft()

    def rate(self) -> float | None:
        """Units per second over the last seconds; None where too little was seen to say."""
        if len(self._samples) < 2:  # noqa: PLR2004  (a rate needs two points)
            return None
        (start, before), (end, after) = self._samples[0], self._samples[-1]
        return (after - before) / (end - start) if end > start else None

    def words(self, now: float) -> str:
        """News of the whole run say themselves what is done."""
        said = line(self.event.text)
        doing = "" if said and self.event.node is None else _DOING[self.phase]
        parts = [doing, said, self._amount(), duration(now - self.since)]
        return "  ".join(part for part in parts if part)

    def _amount(self) -> str:
        done, total = self.event.done, self.event.total
        if done is None:
            return ""
        show = human_size if self.event.unit == "B" else str
        of = f" of {show(total)}" if total else ""
        rate = self.rate() if self.event.unit == "B" else None
        return f"{show(done)}{of}{f', {human_size(round(rate))}/s' if rate is not None else ''}"


class Board:
    """The state of a run as its events tell it: who is at what, and how many ended how."""

    def __init__(self) -> None:
        self.working: dict[str | None, Work] = {}
        self.ended: dict[str, str] = {}  # node -> how its last phase ended

    def news(self, event: Event, now: float) -> bool:
        """Take an event in; True where it begins or ends something."""
        at = self.working.get(event.node)
        if event.kind == "note":
            return True
        if event.kind in _ENDED:
            self.working.pop(event.node, None)
            if event.node is not None:
                self.ended[event.node] = event.kind
            return True
        if at is not None and at.phase == event.phase:
            at.news(event, now)
            return event.kind == "started"
        self.working[event.node] = Work(event, now)
        return True

    def summary(self, now: float) -> str:
        """One line over all nodes at work; empty where none is."""
        nodes = [work for node, work in self.working.items() if node is not None]
        if not nodes:
            return next((work.words(now) for work in self.working.values()), "")
        phases = ", ".join(f"{phase} {names}" for names, phase in self._by_phase())
        pulled = sum(work.event.done or 0 for work in nodes if work.event.unit == "B")
        total = sum(work.event.total or 0 for work in nodes if work.event.unit == "B")
        size = f"; {human_size(pulled)} of {human_size(total)}" if total else ""
        return f"still {phases}{size}  {duration(now - min(work.since for work in nodes))}"

    def _by_phase(self) -> list[tuple[str, str]]:
        return folded((node, _DOING[work.phase]) for node, work in self.working.items() if node is not None)


class PlainProgress:
    """Lines for a log: one per node and change of phase, and a sum line where nothing was said for a while."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._board, self._clock, self._spoke = Board(), clock, clock()

    def lines(self, event: Event) -> Iterator[str]:
        now = self._clock()
        if self._board.news(event, now):
            self._spoke = now
            yield told(event)
        else:
            yield from self.tick()

    def tick(self) -> Iterator[str]:
        """What to say when the clock has moved on: nothing, or that work still goes on."""
        now = self._clock()
        if now - self._spoke >= QUIET_SECONDS and (text := self._board.summary(now)):
            self._spoke = now
            yield text


class LiveProgress:
    """What stands on the screen now. `height` lines at most, whatever the number of nodes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._board, self._clock = Board(), clock

    def news(self, event: Event) -> str | None:
        """Take an event in; a line to leave on the screen for good, where it says how something ended."""
        begins_or_ends = self._board.news(event, self._clock())
        return told(event) if begins_or_ends and event.kind != "started" else None

    def view(self, height: int) -> Group:
        now = self._clock()
        rows = [_row(node, work, now) for node, work in self._board.working.items()]
        shown = rows if len(rows) <= height else rows[: max(height - 1, 1)]
        more = [Text(f"  and {count(len(rows) - len(shown), 'more node')}", "dim")] if len(shown) < len(rows) else []
        return Group(*shown, *more)


def _row(node: str | None, work: Work, now: float) -> Text:
    return Text.assemble(
        "  ", (f"{line(node)}  " if node else "", "bold"), work.words(now), no_wrap=True, overflow="ellipsis"
    )


def told(event: Event) -> str:
    """An event as one line."""
    how = "" if event.kind in {"started", "note", "progress"} else event.kind
    said = line(event.text)
    if event.phase == "report" and event.kind == "done":
        how = ""  # its text is how the node ended
    head = " ".join(word for word in ("" if event.phase == "report" else event.phase, how) if word)
    return ": ".join(part for part in (line(event.node or ""), head, said) if part)
