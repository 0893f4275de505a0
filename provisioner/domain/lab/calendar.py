"""When a lab may be changed: inside its maintenance windows and outside its freezes, in its own time zone."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Literal, NamedTuple, Self, get_args
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from provisioner.domain.values.model import UserInput
from provisioner.domain.values.problem import Problem

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = get_args(Weekday)
# A window recurs every week; a clock change can skip it once.
_HORIZON = timedelta(days=15)


def _check_date(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"there is no such day: {text}") from None
    return text


# Text, so that a number such as 20261220 is not accepted as a date.
Day = Annotated[str, StringConstraints(pattern=r"^2[01]\d\d-\d\d-\d\d$"), AfterValidator(_check_date)]
Clock = Annotated[str, StringConstraints(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]


class Freeze(UserInput):
    """Days on which nothing is changed."""

    first: Day = Field(alias="from", description="The first day", examples=["2026-12-20"])
    last: Day = Field(alias="to", description="The last day, included", examples=["2027-01-10"])
    why: Annotated[str, StringConstraints(min_length=1, max_length=80)] = Field(
        description="Is shown", examples=["exams"]
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.last < self.first:
            raise ValueError("the last day of a freeze comes before its first")
        return self


class Window(UserInput):
    """Hours in which a change may begin."""

    days: tuple[Weekday, ...] = Field(default=WEEKDAYS, min_length=1, description="The days on which it opens")
    opens: Clock = Field(alias="from", description="When it opens", examples=["22:00"])
    closes: Clock = Field(alias="to", description="When it closes, possibly on the next day", examples=["06:00"])


class Span(NamedTuple):
    """An interval that includes `start` and excludes `end`, both UTC."""

    start: datetime
    end: datetime

    def contains(self, at: datetime) -> bool:
        """Return whether `at` is inside the interval."""
        return self.start <= at < self.end


class Calendar(NamedTuple):
    """The maintenance calendar of a lab. Without windows it is always open except for its freezes.

    All datetimes are time zone aware.
    """

    freezes: tuple[Freeze, ...]
    windows: tuple[Window, ...]
    zone: ZoneInfo

    def closed_for_fetch(self, now: datetime) -> Problem | None:
        """Return why no pull may begin now before a rollout, and when it may next; None if it may begin."""
        if self._is_in_window(now):
            return None
        return Problem(
            "outside_window",
            "outside the window for fetching",
            f"rollout.fetch.windows in lab.yml forbids such pulls now; the next may begin: {self._when(now)}",
            "wait until then; what was fetched stays, and the same command goes on with the rest",
        )

    def closed_problem(self, now: datetime) -> Problem | None:
        """Return why no change may begin now and when it may next; None if it may begin."""
        freeze = next((freeze for freeze in self.freezes if self._freeze_span(freeze).contains(now)), None)
        if freeze is None and self._is_in_window(now):
            return None
        key = "windows" if freeze is None else "freeze"
        return Problem(
            "outside_window" if freeze is None else "frozen",
            (
                "outside the maintenance window"
                if freeze is None
                else f"changes are frozen from {freeze.first} to {freeze.last}: {freeze.why}"
            ),
            f"rollout.{key} in lab.yml forbids changes now; the next change may begin: {self._when(now)}",
            "wait until then; or override it, which is recorded: --ignore-freeze --reason TEXT",
        )

    def _when(self, now: datetime) -> str:
        opening = self.next_opening(now)
        return f"{opening.astimezone(self.zone):%a %Y-%m-%d %H:%M %Z}" if opening else "never, by the present lab.yml"

    def next_opening(self, now: datetime) -> datetime | None:
        """Return the first time from `now` on at which a change may begin; None if there is none."""
        freeze_ends = [self._freeze_span(freeze).end for freeze in self.freezes]
        bases = [now, *(at for at in freeze_ends if at > now)]
        starts = (span.start for base in bases for span in self._window_spans(base, base + _HORIZON))
        candidates = sorted({*bases, *(at for at in starts if at > now)})
        return next((at for at in candidates if self._is_in_window(at) and not self._is_frozen(at)), None)

    def _is_in_window(self, at: datetime) -> bool:
        return not self.windows or any(span.contains(at) for span in self._window_spans(at, at))

    def _is_frozen(self, at: datetime) -> bool:
        return any(self._freeze_span(freeze).contains(at) for freeze in self.freezes)

    def _freeze_span(self, freeze: Freeze) -> Span:
        after = date.fromisoformat(freeze.last) + timedelta(days=1)
        return Span(self._at(date.fromisoformat(freeze.first), "00:00"), self._at(after, "00:00"))

    def _window_spans(self, since: datetime, until: datetime) -> Iterator[Span]:
        """Yield the windows that open between the day before `since` and the day of `until`."""
        day = since.astimezone(self.zone).date() - timedelta(days=1)
        while day <= until.astimezone(self.zone).date():
            for window in self.windows:
                if WEEKDAYS[day.weekday()] in window.days:
                    yield self._window_span(window, day)
            day += timedelta(days=1)

    def _window_span(self, window: Window, day: date) -> Span:
        crosses_midnight = window.closes <= window.opens
        return Span(
            self._at(day, window.opens), self._at(day + timedelta(days=1) if crosses_midnight else day, window.closes)
        )

    def _at(self, day: date, clock: str) -> datetime:
        """Convert to UTC. A repeated hour is the first one; a skipped hour is moved into the next one."""
        return datetime.combine(day, time.fromisoformat(clock), self.zone).astimezone(UTC)
