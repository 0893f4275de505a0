"""Times in the feeds of mirrors: which of them are usable, and of which nothing can be concluded.

Programs write "never" as 0, as -1 or as the zero of their language's time (year 1 or 1970), and some write what is no
time at all. A time that is not usable is None: it is never replaced by a guess.
"""

import math
import re
from datetime import UTC, datetime, timedelta

_FIRST = datetime(2000, 1, 1, tzinfo=UTC).timestamp()  # no mirror program is older
_SKEW = timedelta(days=1)  # by which a mirror's clock may be wrong
_HORIZON = timedelta(days=366)  # a next run that is more than a year away is not a schedule
_NUMBER = re.compile(r"[0-9]{9,11}(\.[0-9]{1,9})?")
# 2020-07-22 01:15:17 +0800 (Go), 2020-07-22T01:15:17.123456789+08:00 (RFC 3339). Without a zone a text has no meaning.
_DATE = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]{1,9})?"
    r" ?(?:(Z|UTC)|([+-][0-9]{2}):?([0-9]{2}))(?: [A-Z]{2,5})?"
)
_MAX_TEXT = 64


def past_time(value: object, at: datetime) -> datetime | None:
    """Return the time of something that has happened. `at`: when the feed was read. None if it is not usable."""
    return _within(value, at + _SKEW)


def next_time(value: object, at: datetime) -> datetime | None:
    """Return the time of something that is due, which may be overdue. `at`: when the feed was read; None as above."""
    return _within(value, at + _HORIZON)


def _within(value: object, last: datetime) -> datetime | None:
    seconds = _seconds(value)
    if seconds is None or not _FIRST <= seconds <= last.timestamp():
        return None
    return datetime.fromtimestamp(math.floor(seconds), UTC)


def _seconds(value: object) -> float | None:
    """Convert a number, a text of digits or a date with its zone to Unix seconds."""
    if isinstance(value, str):
        return _seconds_of_text(value.strip()) if len(value) <= _MAX_TEXT else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def _seconds_of_text(text: str) -> float | None:
    if _NUMBER.fullmatch(text):
        return float(text)
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    zone = "+00:00" if match[3] else f"{match[4]}:{match[5]}"
    try:
        return datetime.fromisoformat(f"{match[1]}T{match[2]}{zone}").timestamp()
    except ValueError:
        return None
