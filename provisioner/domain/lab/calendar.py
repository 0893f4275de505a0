"""When a lab may be changed: inside its windows and outside its freezes, by its own clock."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Literal, NamedTuple, Self, get_args
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from provisioner.domain.values.model import UserInput
from provisioner.domain.values.problem import Problem

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = get_args(Weekday)
# A window comes back every week, or in the week after that where a change of clocks has swallowed it.
_HORIZON = timedelta(days=15)


def _is_a_day(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"there is no such day: {text}") from None
    return text


# Text, so that nothing but a date as people in a lab write it (20261220 as a number, say) is taken for one.
Day = Annotated[str, StringConstraints(pattern=r"^2[01]\d\d-\d\d-\d\d$"), AfterValidator(_is_a_day)]
Clock = Annotated[str, StringConstraints(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]


class Freeze(UserInput):
    """From the beginning of the first day to the end of the last one nothing is changed. `why` is shown."""

    first: Day = Field(alias="from")
    last: Day = Field(alias="to")
    why: Annotated[str, StringConstraints(min_length=1, max_length=80)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.last < self.first:
            raise ValueError("the last day of a freeze comes before its first")
        return self


class Window(UserInput):
    """Hours in which a change may begin. `days` are those on which it opens; it may close on the next one."""

    days: tuple[Weekday, ...] = Field(default=WEEKDAYS, min_length=1)
    opens: Clock = Field(alias="from")
    closes: Clock = Field(alias="to")


class Span(NamedTuple):
    """From `start` on and before `end`, both UTC."""

    start: datetime
    end: datetime

    def holds(self, at: datetime) -> bool:
        return self.start <= at < self.end


class Calendar(NamedTuple):
    """A lab without windows is always open, but for its freezes. Every moment given is aware."""

    freezes: tuple[Freeze, ...]
    windows: tuple[Window, ...]
    zone: ZoneInfo

    def closed_problem(self, now: datetime) -> Problem | None:
        """What keeps a change from beginning now, and when it may."""
        frozen = next((freeze for freeze in self.freezes if self._frozen(freeze).holds(now)), None)
        if frozen is None and self._open(now):
            return None
        opening = self._told(self.next_opening(now))
        return _outside(opening) if frozen is None else _in_freeze(frozen, opening)

    def next_opening(self, now: datetime) -> datetime | None:
        """The first moment from now on at which a change may begin; None where there is none."""
        thaws = [self._frozen(freeze).end for freeze in self.freezes]
        turns = [now, *(at for at in thaws if at > now)]
        starts = (span.start for turn in turns for span in self._spans(turn, turn + _HORIZON))
        candidates = sorted({*turns, *(at for at in starts if at > now)})
        return next((at for at in candidates if self._open(at) and not self._in_any_freeze(at)), None)

    def _open(self, at: datetime) -> bool:
        return not self.windows or any(span.holds(at) for span in self._spans(at, at))

    def _in_any_freeze(self, at: datetime) -> bool:
        return any(self._frozen(freeze).holds(at) for freeze in self.freezes)

    def _frozen(self, freeze: Freeze) -> Span:
        after = date.fromisoformat(freeze.last) + timedelta(days=1)
        return Span(self._at(date.fromisoformat(freeze.first), "00:00"), self._at(after, "00:00"))

    def _spans(self, since: datetime, until: datetime) -> Iterator[Span]:
        """Those that open between the day before `since` and the day of `until`."""
        day = since.astimezone(self.zone).date() - timedelta(days=1)
        while day <= until.astimezone(self.zone).date():
            for window in self.windows:
                if WEEKDAYS[day.weekday()] in window.days:
                    yield self._span(window, day)
            day += timedelta(days=1)

    def _span(self, window: Window, day: date) -> Span:
        crosses_midnight = window.closes <= window.opens
        return Span(
            self._at(day, window.opens), self._at(day + timedelta(days=1) if crosses_midnight else day, window.closes)
        )

    def _at(self, day: date, clock: str) -> datetime:
        """Of an hour that comes twice the first; an hour that is skipped lies in the one after it."""
        return datetime.combine(day, time.fromisoformat(clock), self.zone).astimezone(UTC)

    def _told(self, opening: datetime | None) -> str:
        if opening is None:
            return "never, as lab.yml has it"
        return f"{opening.astimezone(self.zone):%a %Y-%m-%d %H:%M %Z}"


def _in_freeze(freeze: Freeze, opening: str) -> Problem:
    return Problem(
        "frozen",
        f"nothing is changed from {freeze.first} to {freeze.last}: {freeze.why}",
        f"lab.yml says so (rollout.freeze); the next change may begin: {opening}",
        "wait until then; or take it upon you, on record: --ignore-freeze --reason TEXT",
    )


def _outside(opening: str) -> Problem:
    return Problem(
        "outside_window",
        "this is not an hour at which this lab may be changed",
        f"lab.yml says so (rollout.windows); the next change may begin: {opening}",
        "wait until then; or take it upon you, on record: --ignore-freeze --reason TEXT",
    )
