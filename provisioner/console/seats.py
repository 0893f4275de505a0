"""The list of seats: a row for each; of many, those that are healthy are only counted."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from provisioner.console.problems import problems
from provisioner.console.tables import cell, group_rows, make_table
from provisioner.console.text import count, human_duration
from provisioner.domain.lab.environments import DEFAULT_ENVIRONMENT, is_default_environment
from provisioner.domain.rollout.seat_list import Card, SeatEntry, SeatList, SeatState
from provisioner.domain.rollout.status import disk_size, is_above_limit
from provisioner.domain.values.size import binary_size

MANY = 50  # rows; what is longer does not fit on a screen
_SHORT = 12  # characters of a UUID, its kind included: GPU-1b2c3d4e

_STYLES: Mapping[SeatState, str] = {
    "healthy": "green",
    "starting": "yellow",
    "absent": "yellow",
    "stopped": "magenta",
}
_WORDS: Mapping[SeatState, str] = {"absent": "not there yet"}


def seats_view(listing: SeatList, *, verbose: bool = False) -> Group:
    """Render the seats, the problems of nodes without one, and the sum.

    Of more than MANY seats those that are healthy are counted for each node, unless `verbose`.
    """
    is_folded = not verbose and len(listing.seats) > MANY
    healthy = [seat for seat in listing.seats if is_folded and _is_well(seat)]
    others = [seat for seat in listing.seats if not is_folded or not _is_well(seat)]
    parts: list[RenderableType] = [_table(others)] if others else []
    parts += [Text(), _counts(healthy), Text("\n-v lists the healthy seats, too.", "dim")] if healthy else []
    found = ((node, problem) for node, kinds in listing.unread.items() for problem in kinds)
    return Group(*parts, problems(found), Text(f"\n{_sum(listing)}"))


def _table(seats: Sequence[SeatEntry]) -> Table:
    """Return a row for each seat; with the disk where a seat has a limit of it, or was measured."""
    has_disk = any(seat.disk or seat.disk_limit is not None for seat in seats)
    disk = ("disk",) if has_disk else ()
    has_environment = not all(is_default_environment(seat.environment) for seat in seats)
    environment = ("environment",) if has_environment else ()
    rows = make_table("person", "node", "seat", *environment, "GPUs", "state", *disk, "since", "group", "until")
    for seat in seats:
        rows.add_row(
            *map(cell, (seat.person, seat.node, seat.seat or "")),
            *([cell(seat.environment or DEFAULT_ENVIRONMENT)] if has_environment else []),
            cell(_gpus(seat)),
            cell(_state(seat), _STYLES.get(seat.state, "red")),
            *([_disk(seat)] if has_disk else []),
            *map(cell, (_day(seat.since), seat.group, _until(seat))),
        )
    return rows


def _disk(seat: SeatEntry) -> Text:
    """Return used and limit, marked at or above the limit."""
    used = disk_size(seat.disk) if seat.disk else "?" if seat.seat else ""
    limit = f" / {binary_size(seat.disk_limit)}" if seat.disk_limit is not None else ""
    return cell(f"{used}{limit} !", "red") if is_above_limit(seat.disk, seat.disk_limit) else cell(f"{used}{limit}")


def _until(seat: SeatEntry) -> str:
    """Return the last day in the roster, or what is left of the lease."""
    if seat.kind == "self_service":
        return "no lease" if seat.left_s is None else f"{human_duration(seat.left_s)} left"
    return _day(seat.until)


def _day(day: date | None) -> str:
    return day.isoformat() if day else ""


def _is_well(seat: SeatEntry) -> bool:
    return seat.state == "healthy" and not seat.reason and not is_above_limit(seat.disk, seat.disk_limit)


def _state(seat: SeatEntry) -> str:
    word = _WORDS.get(seat.state, seat.state)
    if not seat.reason:
        return word
    return f"{word}: {seat.reason}" if seat.state == "stopped" else f"{word}, to be stopped: {seat.reason}"


def _gpus(seat: SeatEntry) -> str:
    if seat.shared:
        return f"shared: {count(len(seat.gpus), 'GPU')}"
    return ", ".join(map(_card, seat.gpus))


def _card(card: Card) -> str:
    short = card.uuid[:_SHORT]
    return f"{card.index} ({short})" if card.index else short


def _counts(healthy: Iterable[SeatEntry]) -> Table:
    """Return a row for each group of nodes with as many healthy seats."""
    rows = make_table("nodes", "healthy seats on each", right=("healthy seats on each",))
    for names, number in group_rows(Counter(seat.node for seat in healthy).items()):
        rows.add_row(names, cell(str(number), _STYLES["healthy"]))
    return rows


def _sum(listing: SeatList) -> str:
    counts = Counter(_WORDS.get(seat.state, seat.state) for seat in listing.seats)
    states = ", ".join(f"{number} {state}" for state, number in counts.items()) or "none"
    unread = f"; {count(len(listing.unread), 'node')} without a known seat" if listing.unread else ""
    return f"{count(len(listing.seats), 'seat')}: {states}{unread}."
