"""Words for a screen: names of many nodes in one, times, and nothing in them that a terminal would obey."""

import re
from collections.abc import Iterable
from itertools import groupby

# Control characters (an ANSI sequence begins with one), what reorders text (bidirectional marks), other line ends, and
# halves of characters that no encoding can write. A line feed and a tab are dealt with by `block` and `line`.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_MINUTE, _HOUR = 60, 3600


def line(text: str) -> str:
    """One line of text from outside, safe to print: what a terminal would obey is shown as an escape."""
    return block(text).replace("\n", "\\n").replace("\t", "\\t")


def block(text: str) -> str:
    """Text of several lines from outside, safe to print."""
    return _UNSAFE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "surrogatepass").decode()


def duration(seconds: float) -> str:
    """45 s, 3:05 min, 1:02:00 h"""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02} h"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def fold(names: Iterable[str]) -> str:
    """Many node names in few words, as Slurm writes them: pc[001-040,042] n7. Each name once, in the order given."""
    parts = [_parts(name) for name in dict.fromkeys(names)]
    groups = groupby(parts, key=lambda part: (part[0], part[2], not part[1]))
    return " ".join(_group(list(group)) for _, group in groups)


def _parts(name: str) -> tuple[str, str, str]:
    """What stands before the last number of a name, the number, and what comes after."""
    match = re.fullmatch(r"(.*?)([0-9]*)([^0-9]*)", line(name))
    return (match[1], match[2], match[3]) if match else (line(name), "", "")


def _group(parts: list[tuple[str, str, str]]) -> str:
    stem, digits, tail = parts[0]
    if len(parts) == 1 or not digits:
        return f"{stem}{digits}{tail}"
    return f"{stem}[{','.join(_runs([number for _, number, _ in parts]))}]{tail}"


def _runs(numbers: list[str]) -> list[str]:
    """Each run of numbers that count up by one, as first-last."""
    runs: list[list[str]] = []
    for number in numbers:
        if runs and _follows(runs[-1][-1], number):
            runs[-1].append(number)
        else:
            runs.append([number])
    return [run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]


def _follows(before: str, after: str) -> bool:
    return after == str(int(before) + 1).zfill(len(before))
