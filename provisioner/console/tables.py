"""Tables: one rule under the head, cells that wrap and are never cut."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from rich import box
from rich.table import Table
from rich.text import Text

from provisioner.console.encoded import EncodedText
from provisioner.console.text import fold_names, safe_line
from provisioner.domain.values.sync import SyncState

Row = TypeVar("Row", bound=Hashable)

_STATES: Mapping[SyncState, str] = {
    SyncState.COMPLETE: "green",
    SyncState.COLD: "cyan",
    SyncState.PARTIAL: "yellow",
    SyncState.STALE: "yellow",
    SyncState.LIMITED: "yellow",
}


def make_table(*heads: str, right: Sequence[str] = ()) -> Table:
    """Return an empty table with these columns. `right`: the columns with numbers, aligned right."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for head in heads:
        made.add_column(head, justify="right" if head in right else "left", overflow="fold")
    return made


def cell(text: str, style: str = "") -> EncodedText:
    """Return a cell with untrusted text: markup is not interpreted and control characters are escaped."""
    return EncodedText(safe_line(text), style)


def state_cell(value: SyncState) -> Text:
    """Return a cell with the sync state in its colour."""
    return Text(value.value, _STATES.get(value, "red"))


def group_rows(rows: Iterable[tuple[str, Row]]) -> list[tuple[str, Row]]:
    """Group equal rows: return the folded node names of each different row, in order of first appearance."""
    groups: dict[Row, list[str]] = {}
    for name, row in rows:
        groups.setdefault(row, []).append(name)
    return [(fold_names(names), row) for row, names in groups.items()]
