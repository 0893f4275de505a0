"""Windows and freezes in the lab's time zone, also in nights of a clock change."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from provisioner.domain.lab.calendar import WEEKDAYS, Calendar, Freeze, Window

BERLIN = "Europe/Berlin"


def a_window(opens: str, closes: str, *days: str) -> Window:
    return Window.model_validate({"from": opens, "to": closes} | ({"days": days} if days else {}))


def a_freeze(first: str, last: str, why: str = "exams") -> Freeze:
    return Freeze.model_validate({"from": first, "to": last, "why": why})


def a_calendar(*parts: Window | Freeze, zone: str = BERLIN) -> Calendar:
    freezes = tuple(part for part in parts if isinstance(part, Freeze))
    return Calendar(freezes, tuple(part for part in parts if isinstance(part, Window)), ZoneInfo(zone))


def local(text: str, zone: str = BERLIN, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)


WEEKEND = a_window("22:00", "06:00", "sat", "sun")
HOLIDAYS = a_freeze("2026-12-20", "2027-01-10")


@pytest.mark.parametrize(
    ("parts", "now", "code", "opening"),
    [
        ([], "2026-11-26T12:00", None, None),
        ([WEEKEND], "2026-11-28T21:59", "outside_window", "2026-11-28T22:00"),
        ([WEEKEND], "2026-11-28T22:00", None, None),
        ([WEEKEND], "2026-11-29T05:59", None, None),  # Sunday morning is still Saturday's window
        ([WEEKEND], "2026-11-29T06:00", "outside_window", "2026-11-29T22:00"),
        ([WEEKEND], "2026-11-30T05:00", None, None),
        ([WEEKEND], "2026-11-30T22:30", "outside_window", "2026-12-05T22:00"),
        ([HOLIDAYS], "2026-12-19T23:59", None, None),
        ([HOLIDAYS], "2026-12-20T00:00", "frozen", "2027-01-11T00:00"),
        ([HOLIDAYS], "2027-01-10T23:59", "frozen", "2027-01-11T00:00"),
        ([HOLIDAYS], "2027-01-11T00:00", None, None),
        # The freeze ends inside Sunday's window, which then is open at once.
        ([HOLIDAYS, WEEKEND], "2026-12-24T12:00", "frozen", "2027-01-11T00:00"),
        ([a_freeze("2026-11-01", "2026-11-30"), WEEKEND], "2026-11-26T12:00", "frozen", "2026-12-05T22:00"),
        ([a_window("10:00", "10:00", "wed")], "2026-11-26T09:00", None, None),  # the same hour is a whole day
    ],
)
def test_next_opening_and_code_outside_windows_and_in_freezes(
    parts: list[Window | Freeze], now: str, code: str | None, opening: str | None
) -> None:
    calendar = a_calendar(*parts)
    found = calendar.closed_problem(local(now))
    assert (found.code if found else None) == code
    assert calendar.next_opening(local(now)) == local(opening or now)


def test_the_freeze_problem_names_the_next_opening_in_the_labs_time_zone() -> None:
    found = a_calendar(HOLIDAYS).closed_problem(local("2026-12-24T12:00").astimezone(UTC))
    assert found is not None
    assert found.what == "changes are frozen from 2026-12-20 to 2027-01-10: exams"
    assert "Mon 2027-01-11 00:00 CET" in found.why
    assert "--ignore-freeze --reason" in found.fix


@pytest.mark.parametrize(
    ("window", "open_from", "open_until"),
    [
        # 29 March 2026: 02:00 is followed by 03:00. A skipped hour is moved into the next one.
        (a_window("01:30", "03:30", "sun"), "2026-03-29T00:30Z", "2026-03-29T01:30Z"),
        (a_window("02:15", "02:45", "sun"), "2026-03-29T01:15Z", "2026-03-29T01:45Z"),
        # 25 October 2026: 03:00 is followed by 02:00. Of a repeated hour the first counts.
        (a_window("01:00", "04:00", "sun"), "2026-10-24T23:00Z", "2026-10-25T03:00Z"),
        (a_window("02:15", "02:45", "sun"), "2026-10-25T00:15Z", "2026-10-25T00:45Z"),
        (a_window("23:00", "02:30", "sat"), "2026-10-24T21:00Z", "2026-10-25T00:30Z"),
    ],
)
def test_windows_in_nights_of_a_clock_change(window: Window, open_from: str, open_until: str) -> None:
    calendar = a_calendar(window)
    start, end = datetime.fromisoformat(open_from), datetime.fromisoformat(open_until)
    minute = timedelta(minutes=1)
    assert calendar.closed_problem(start - minute) is not None
    assert calendar.closed_problem(start) is None
    assert calendar.closed_problem(end - minute) is None
    assert calendar.closed_problem(end) is not None
    assert calendar.next_opening(start - minute) == start


def test_a_window_skipped_by_a_clock_change_opens_a_week_later() -> None:
    calendar = a_calendar(a_window("02:30", "03:10", "sun"))  # 02:30 is 03:30 in that night
    assert calendar.next_opening(local("2026-03-28T12:00")) == local("2026-04-05T02:30")


ZONES = st.sampled_from([BERLIN, "Asia/Shanghai", "America/New_York", "Australia/Lord_Howe", "UTC"])
CLOCKS = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.sampled_from([0, 15, 30, 59]))
WINDOWS = st.builds(a_window, CLOCKS, CLOCKS, st.sampled_from(WEEKDAYS), st.sampled_from(WEEKDAYS))
STARTS = st.dates(datetime(2026, 1, 1, tzinfo=UTC).date(), datetime(2027, 12, 1, tzinfo=UTC).date())
FREEZES = st.builds(
    lambda first, length: a_freeze(str(first), str(first + timedelta(length))), STARTS, st.integers(0, 40)
)
MOMENTS = st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


@st.composite
def calendars(draw: st.DrawFn) -> Calendar:
    parts = draw(st.lists(WINDOWS, max_size=3)) + draw(st.lists(FREEZES, max_size=2))
    return a_calendar(*parts, zone=draw(ZONES))


def is_open(calendar: Calendar, at: datetime) -> bool:
    """Decide by the wall clock of the lab, without time zone arithmetic."""
    wall = at.astimezone(calendar.zone)
    if any(freeze.first <= f"{wall:%Y-%m-%d}" <= freeze.last for freeze in calendar.freezes):
        return False
    clock, today, yesterday = f"{wall:%H:%M}", WEEKDAYS[wall.weekday()], WEEKDAYS[wall.weekday() - 1]
    for window in calendar.windows:
        crosses = window.closes <= window.opens
        if today in window.days and window.opens <= clock and (crosses or clock < window.closes):
            return True
        if crosses and yesterday in window.days and clock < window.closes:
            return True
    return not calendar.windows


@given(calendars(), MOMENTS)
def test_the_calendar_agrees_with_the_wall_clock_except_near_a_clock_change(calendar: Calendar, now: datetime) -> None:
    offsets = {(now + timedelta(days=day)).astimezone(calendar.zone).utcoffset() for day in (-2, 0, 2)}
    if len(offsets) == 1:
        assert (calendar.closed_problem(now) is None) == is_open(calendar, now)


@given(calendars(), MOMENTS, st.data())
def test_the_next_opening_is_the_first_open_time(calendar: Calendar, now: datetime, data: st.DataObject) -> None:
    opening = calendar.next_opening(now)
    assert opening is not None
    assert opening >= now
    assert calendar.closed_problem(opening) is None
    if opening > now:
        minutes = int((opening - now).total_seconds()) // 60
        early = now + timedelta(minutes=data.draw(st.integers(0, max(minutes - 1, 0))))
        assert calendar.closed_problem(early) is not None
    else:
        assert calendar.closed_problem(now) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"from": "2026-02-30", "to": "2026-03-01", "why": "x"},
        {"from": "2026-03-02", "to": "2026-03-01", "why": "x"},
        {"from": "20260301", "to": "2026-03-02", "why": "x"},
        {"from": 20260301, "to": "2026-03-02", "why": "x"},
        {"from": "2026-03-01", "to": "2026-03-02"},
        {"from": "2026-03-01", "to": "2026-03-02", "why": ""},
    ],
)
def test_invalid_freezes_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Freeze.model_validate(fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"from": "24:00", "to": "06:00"},
        {"from": "6:00", "to": "08:00"},
        {"from": 1320, "to": 360},
        {"from": "22:00", "to": "06:00", "days": []},
        {"from": "22:00", "to": "06:00", "days": ["saturday"]},
    ],
)
def test_invalid_windows_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Window.model_validate(fields)
