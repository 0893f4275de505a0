"""Text for a terminal: escaped control characters, folded node names, durations and counts."""

import re
from collections.abc import Iterable
from itertools import groupby

# Control characters (an ANSI sequence begins with one), bidirectional marks, other line ends, and lone surrogates.
# `safe_block` keeps line feeds and tabs; `safe_line` escapes them.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_MINUTE, _HOUR = 60, 3600
_MOST_NAMES = 12  # in a line, after folding


def safe_line(text: str) -> str:
    """Return untrusted text as one line that is safe to print: control characters, line feeds and tabs are escaped."""
    return safe_block(text).replace("\n", "\\n").replace("\t", "\\t")


def safe_block(text: str) -> str:
    """Return untrusted text that is safe to print; its line feeds and tabs are kept."""
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "surrogatepass").decode()


def human_duration(seconds: float) -> str:
    """Return seconds as text: 45 s, 3:05 min or 1:02:00 h."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02} h"


def count(number: int, noun: str) -> str:
    """Return the number with its noun: 1 node, 2 nodes."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def fold_names(names: Iterable[str]) -> str:
    """Fold node names as Slurm does: pc[001-040,042] n7. Each name once, in the order given."""
    return " ".join(_folded(dict.fromkeys(names)))


def fold_some_names(names: Iterable[str]) -> str:
    """Fold names; where more than a line is left of them, name the first ones and count the others."""
    given = list(dict.fromkeys(names))
    folded = _folded(given)
    if len(folded) <= _MOST_NAMES:
        return " ".join(folded)
    return f"{' '.join(_folded(given[:_MOST_NAMES]))} and {len(given) - _MOST_NAMES} more"


def _folded(names: Iterable[str]) -> list[str]:
    groups = groupby(map(_split_name, names), key=lambda part: (part[0], part[2], not part[1]))
    return [_group(list(group)) for _, group in groups]


def _split_name(name: str) -> tuple[str, str, str]:
    """Return the part of a name before its last number, the number, and the part after it."""
    match = re.fullmatch(r"(.*?)([0-9]*)([^0-9]*)", safe_line(name))
    return (match[1], match[2], match[3]) if match else (safe_line(name), "", "")


def _group(parts: list[tuple[str, str, str]]) -> str:
    stem, digits, tail = parts[0]
    if len(parts) == 1 or not digits:
        return f"{stem}{digits}{tail}"
    return f"{stem}[{','.join(_runs([number for _, number, _ in parts]))}]{tail}"


def _runs(numbers: list[str]) -> list[str]:
    """Return each run of consecutive numbers as first-last."""
    runs: list[list[str]] = []
    for number in numbers:
        if runs and _is_next(runs[-1][-1], number):
            runs[-1].append(number)
        else:
            runs.append([number])
    return [run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]


def _is_next(before: str, after: str) -> bool:
    return after == str(int(before) + 1).zfill(len(before))
