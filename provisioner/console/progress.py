"""Progress of a run: one live line per active node on a terminal, plain lines elsewhere, a summary in a silence."""

from collections import deque
from collections.abc import Callable, Iterator

from rich.console import Group
from rich.text import Text

from provisioner.console.tables import group_rows
from provisioner.console.text import count, human_duration, safe_line
from provisioner.domain.values.event import Event, Phase
from provisioner.domain.values.size import human_size

QUIET_SECONDS = 10.0
_RATE_WINDOW = 10.0  # seconds

_DOING: dict[Phase, str] = {
    "probe": "probing",
    "claim": "claiming the nodes",
    "catalog": "looking at the mirror",
    "lock": "pinning",
    "build": "building the lab image",
    "plan": "planning",
    "fetch": "fetching",
    "stage": "staging",
    "switch": "switching",
    "verify": "verifying",
    "notice": "showing the notice",
    "disk": "setting disk limits",
    "report": "reporting",
    "prepare": "preparing",
}
_ENDED = {"done", "failed", "skipped"}


class Activity:
    """What one node, or the whole run, is doing. Times are in seconds of the caller's clock."""

    def __init__(self, event: Event, now: float) -> None:
        """Start with the first event of a phase."""
        self.phase, self.since, self.event = event.phase, now, event
        self._samples: deque[tuple[float, int]] = deque()
        self.add(event, now)

    def add(self, event: Event, now: float) -> None:
        """Take the next event of the same phase."""
        self.event = event
        if event.done is not None:
            self._samples.append((now, event.done))
            while now - self._samples[0][0] > _RATE_WINDOW:
                self._samples.popleft()

    def rate(self) -> float | None:
        """Return units per second over the last seconds, or None with fewer than two samples."""
        if len(self._samples) < 2:  # noqa: PLR2004  (a rate needs two points)
            return None
        (start, before), (end, after) = self._samples[0], self._samples[-1]
        return (after - before) / (end - start) if end > start else None

    def text(self, now: float) -> str:
        """Return one line: what is done, the amount and the duration. An event of the whole run says what is done."""
        detail = safe_line(self.event.text)
        doing = "" if detail and self.event.node is None else _DOING[self.phase]
        parts = [doing, detail, self._amount(), human_duration(now - self.since)]
        return "  ".join(part for part in parts if part)

    def _amount(self) -> str:
        done, total = self.event.done, self.event.total
        if done is None:
            return ""
        show = human_size if self.event.unit == "B" else str
        of = f" of {show(total)}" if total else ""
        rate = self.rate() if self.event.unit == "B" else None
        return f"{show(done)}{of}{f', {human_size(round(rate))}/s' if rate is not None else ''}"


class RunState:
    """The state of a run by its events: what each node is doing, and how its last phase ended."""

    def __init__(self) -> None:
        """Start without any node."""
        self.working: dict[str | None, Activity] = {}
        self.ended: dict[str, str] = {}  # node -> how its last phase ended

    def add(self, event: Event, now: float) -> bool:
        """Take an event; return whether it begins or ends a phase, or is a note."""
        activity = self.working.get(event.node)
        if event.kind == "note":
            return True
        if event.kind in _ENDED:
            self.working.pop(event.node, None)
            if event.node is not None:
                self.ended[event.node] = event.kind
            return True
        if activity is not None and activity.phase == event.phase:
            activity.add(event, now)
            return event.kind == "started"
        self.working[event.node] = Activity(event, now)
        return True

    def summary(self, now: float) -> str:
        """Return one line about all active nodes; empty if there are none."""
        nodes = [activity for node, activity in self.working.items() if node is not None]
        if not nodes:
            return next((activity.text(now) for activity in self.working.values()), "")
        phases = ", ".join(f"{phase} {names}" for names, phase in self._by_phase())
        pulled = sum(activity.event.done or 0 for activity in nodes if activity.event.unit == "B")
        total = sum(activity.event.total or 0 for activity in nodes if activity.event.unit == "B")
        size = f"; {human_size(pulled)} of {human_size(total)}" if total else ""
        return f"still {phases}{size}  {human_duration(now - min(activity.since for activity in nodes))}"

    def _by_phase(self) -> list[tuple[str, str]]:
        return group_rows((node, _DOING[activity.phase]) for node, activity in self.working.items() if node is not None)


class PlainProgress:
    """Lines for a log: one per node and change of phase, and a summary after QUIET_SECONDS of silence."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start now. `clock` returns seconds."""
        self._state, self._clock, self._last_output = RunState(), clock, clock()

    def add(self, event: Event) -> Iterator[str]:
        """Take an event; yield the lines to print."""
        now = self._clock()
        if self._state.add(event, now):
            self._last_output = now
            yield event_line(event)
        else:
            yield from self.tick()

    def tick(self) -> Iterator[str]:
        """Yield a summary line if nothing was printed for QUIET_SECONDS and work continues."""
        now = self._clock()
        if now - self._last_output >= QUIET_SECONDS and (text := self._state.summary(now)):
            self._last_output = now
            yield text


class LiveProgress:
    """A live view of the active nodes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start now. `clock` returns seconds."""
        self._state, self._clock = RunState(), clock

    def add(self, event: Event) -> str | None:
        """Take an event; return the line to print permanently if the event ends a phase or is a note, else None."""
        begins_or_ends = self._state.add(event, self._clock())
        return event_line(event) if begins_or_ends and event.kind != "started" else None

    def view(self, height: int) -> Group:
        """Render the active nodes in at most `height` lines."""
        now = self._clock()
        rows = [_row(node, activity, now) for node, activity in self._state.working.items()]
        shown = rows if len(rows) <= height else rows[: max(height - 1, 1)]
        more = [Text(f"  and {count(len(rows) - len(shown), 'more node')}", "dim")] if len(shown) < len(rows) else []
        return Group(*shown, *more)


def _row(node: str | None, activity: Activity, now: float) -> Text:
    return Text.assemble(
        "  ", (f"{safe_line(node)}  " if node else "", "bold"), activity.text(now), no_wrap=True, overflow="ellipsis"
    )


def event_line(event: Event) -> str:
    """Return an event as one line."""
    how = "" if event.kind in {"started", "note", "progress"} else event.kind
    text = safe_line(event.text)
    if event.phase == "report" and event.kind == "done":
        how = ""  # the text is the state of the node
    head = " ".join(word for word in ("" if event.phase == "report" else event.phase, how) if word)
    return ": ".join(part for part in (safe_line(event.node or ""), head, text) if part)
