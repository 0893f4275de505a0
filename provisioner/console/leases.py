"""What became of leases that the admin has changed."""

from rich.console import Group, RenderableType
from rich.text import Text

from provisioner.console.problems import problems
from provisioner.console.tables import cell, make_table
from provisioner.console.text import count, human_duration
from provisioner.domain.rollout.leases import ChangedLease, LeaseChange


def lease_change_view(change: LeaseChange) -> Group:
    """Render a row for each seat, the problems, and the sum."""
    rows = make_table("person", "node", "seat", "GPUs", "state", "left")
    for changed in change.seats:
        rows.add_row(*map(cell, _cells(changed)))
    refused = [(changed.node, changed.problem) for changed in change.seats if changed.problem]
    parts: list[RenderableType] = [rows] if change.seats else []
    done = len(change.seats) - len(refused)
    unread = f"; the seats of {count(len(change.unread), 'node')} are not known" if change.unread else ""
    text = Text(f"\n{done} of {count(len(change.seats), 'seat')} changed{unread}.")
    return Group(*parts, problems([*refused, *change.unread.items()]), text)


def _cells(changed: ChangedLease) -> tuple[str, ...]:
    seat = changed.seat
    left = human_duration(seat.left_s) if seat.has_lease else ""
    state = f"{seat.state}: {seat.released}" if seat.released else seat.state
    return seat.person, changed.node, seat.seat, str(len(seat.gpus)), state, left
