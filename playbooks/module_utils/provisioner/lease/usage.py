"""How long each person has held and used each GPU, by day: pure counting, the time is given."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Iterable, Iterator, Mapping, NamedTuple, Tuple

from ansible.module_utils.provisioner.lease.state import LeaseState

MOST_SAMPLE_S = 120.0  # a look at the GPUs says nothing about a longer time before it


class Row(NamedTuple):
    """Seconds of one person and one GPU on one day (YYYY-MM-DD, UTC). `person`: empty where it is not known yet."""

    day: str
    uid: int
    gpu: str
    person: str = ""
    held_s: float = 0.0
    used_s: float = 0.0


Key = Tuple[str, int, str]
Rows = Mapping[Key, Row]


def count(
    rows: Rows, state: LeaseState, people: Mapping[str, str], spent: Iterable[tuple[str, float]]
) -> dict[Key, Row]:
    """Return the rows after some time in which the leases of `state` were held.

    `people`: seat -> person. `spent`: the seconds by day, see `by_day`.
    """
    found = dict(rows)
    for day, seconds in spent:
        for uid, gpu, seat in _held(state):
            row = found.get((day, uid, gpu), Row(day, uid, gpu))
            person = people.get(seat, "") or row.person
            found[day, uid, gpu] = row._replace(person=person, held_s=row.held_s + seconds)
    return found


def count_use(rows: Rows, state: LeaseState, used: Iterable[str], day: str, seconds: float) -> dict[Key, Row]:
    """Return the rows after a look at the GPUs that has found these in use, `seconds` after the one before."""
    found, in_use = dict(rows), set(used)
    for uid, gpu, _ in _held(state):
        if gpu in in_use and (day, uid, gpu) in found:
            row = found[day, uid, gpu]
            more = row.used_s + min(max(seconds, 0.0), MOST_SAMPLE_S)
            found[day, uid, gpu] = row._replace(used_s=min(more, row.held_s))
    return found


def _held(state: LeaseState) -> set[tuple[int, str, str]]:
    """Return uid, GPU and seat of all leases. A seat that is given other GPUs has a GPU in two leases."""
    return {(lease.uid, gpu, lease.seat) for lease in state.leases.values() for gpu in lease.gpus}


def by_day(end: datetime, seconds: float) -> Iterator[tuple[str, float]]:
    """Yield the days (UTC) of the time before `end`, with the seconds of each."""
    begin = end - timedelta(seconds=seconds)
    while begin < end:
        midnight = datetime(begin.year, begin.month, begin.day, tzinfo=begin.tzinfo) + timedelta(days=1)
        until = min(midnight, end)
        yield begin.date().isoformat(), (until - begin).total_seconds()
        begin = until


def total(rows: Iterable[Row], since: str) -> list[dict[str, Any]]:
    """Return the sums by person and GPU of all days from `since` on, in the order of people and GPUs."""
    sums: dict[tuple[int, str], Row] = {}
    for row in sorted(rows):
        if row.day >= since:
            key = (row.uid, row.gpu)
            before = sums.get(key, Row("", row.uid, row.gpu))
            sums[key] = before._replace(
                person=row.person or before.person, held_s=before.held_s + row.held_s, used_s=before.used_s + row.used_s
            )
    found = sorted(sums.values(), key=lambda row: (row.person, row.uid, row.gpu))
    return [{**row._asdict(), "held_s": round(row.held_s), "used_s": round(row.used_s)} for row in found]
