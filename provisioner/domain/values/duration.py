"""Durations as people type them on the command line: 90s, 30m, 2h, 1h30m or 3d."""

import re

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile("".join(rf"(?:([0-9]{{1,6}}){unit})?" for unit in _UNITS))


def parse_duration(text: str) -> int:
    """Return the seconds of 90s, 30m, 2h, 1h30m or 3d: larger units first, each at most once. 0s is 0.

    Raises ValueError for anything else.
    """
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError(f"invalid duration {text!r}: write it like 90s, 30m, 2h, 1h30m or 3d")
    return sum(int(number) * unit for number, unit in zip(match.groups("0"), _UNITS.values(), strict=True))


def format_duration(seconds: int) -> str:
    """Return these seconds in the largest unit that divides them, as `parse_duration` reads them: 7200 is 2h.

    A plan shows durations in this form.
    """
    unit = next(unit for unit, size in _UNITS.items() if seconds % size == 0)
    return f"{seconds // _UNITS[unit]}{unit}"
