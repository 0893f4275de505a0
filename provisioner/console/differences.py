"""Differences of seats: nodes that differ alike share one, and each takes only its share of the screen."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from rich.text import Text

from provisioner.console.text import count, safe_block
from provisioner.domain.rollout.plan import Step
from provisioner.domain.seat.fill import host_name

# What is different on every node, whatever changes: GPU UUIDs, IPv4 addresses and subnets, published ports.
_OWN = re.compile(
    r"\b(?:GPU|MIG)-[0-9a-f-]{8,36}\b|\b\d{1,3}(?:\.\d{1,3}){3}(?:/\d{1,2})?\b"
    r"|(?<=published: \")\d{1,5}(?=\")|(?<=:)\d{2,5}(?=/)|(?<=-p )\d{2,5}\b"
)


class Difference(NamedTuple):
    """A difference that several steps share: that of the first one, and how many of its lines the others have own."""

    lines: tuple[str, ...]
    own_lines: int = 0


def mask_own(step: Step) -> str:
    """Return the difference of a step without its names, addresses, ports and UUIDs: equal ones are shown once."""
    own = {step.node, host_name(step.node, step.seat or ""), step.seat or ""} - {""}
    names = "|".join(re.escape(name) for name in sorted(own, key=len, reverse=True))
    return re.sub(rf"(?<![\w.-])(?:{names})(?![\w-])", "*", _OWN.sub("*", step.diff))


def merge_differences(steps: Sequence[Step]) -> Difference:
    """Return what is shown for steps whose masked differences are equal."""
    first, *others = [split_lines(step.diff) for step in steps]
    own = {at for other in others for at, pair in enumerate(zip(first, other, strict=True)) if pair[0] != pair[1]}
    return Difference(first, len(own))


def split_lines(diff: str) -> tuple[str, ...]:
    """Return the lines of a difference. Only a line feed ends a line: files may hold other separators of Unicode."""
    return tuple(diff.removesuffix("\n").split("\n")) if diff else ()


def shorten(lines: Sequence[str], most: int) -> list[str]:
    """Return a difference in at most `most` lines: whole, or its changed lines, each once, or a count for each file."""
    if len(lines) <= most:
        return list(lines)
    files = _changes_by_file(lines)
    changed = [line for name, own in files.items() for line in (f"{name}:", *dict.fromkeys(own))]
    if len(changed) < most:
        return [*changed, "(each change once, without the lines around it; --diff shows all)"]
    counts = [f"{name}: {_count_changes(own)}" for name, own in files.items()]
    return [*counts[: most - 1], f"({count(len(lines), 'line')} of differences; --diff shows all)"]


def _changes_by_file(lines: Sequence[str]) -> dict[str, list[str]]:
    """Return the added and removed lines of each file."""
    found: dict[str, list[str]] = {}
    name, heads = "", iter(zip(lines, (*lines[1:], ""), strict=True))
    for line, following in heads:
        if line.startswith("--- ") and following.startswith("+++ "):
            name = line[4:] if following == "+++ /dev/null" else following[4:]
            next(heads)
        elif line.startswith(("+", "-")):
            found.setdefault(name, []).append(line)
    return found


def _count_changes(lines: Sequence[str]) -> str:
    added = sum(line.startswith("+") for line in lines)
    texts = (f"{added} added" if added else "", f"{len(lines) - added} removed" if added < len(lines) else "")
    return ", ".join(filter(None, texts))


def difference_lines(lines: Sequence[str]) -> list[Text]:
    """Return the lines of a difference with their colours, indented below the line of their step."""
    return [Text(f"        {safe_block(line)}", _style(line)) for line in lines]


def _style(line: str) -> str:
    if line.startswith(("---", "+++", "@@", "(")):
        return "dim"
    return {"+": "green", "-": "red"}.get(line[:1], "")
