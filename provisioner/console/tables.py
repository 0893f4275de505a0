"""How tables look here: no lines but one under the head, cells that wrap and never lose a character."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from rich import box
from rich.table import Table
from rich.text import Text

from provisioner.console.text import fold, line
from provisioner.domain.values.sync import SyncState

Row = TypeVar("Row", bound=Hashable)

_STATES: Mapping[SyncState, str] = {
    SyncState.COMPLETE: "green",
    SyncState.COLD: "cyan",
    SyncState.PARTIAL: "yellow",
    SyncState.STALE: "yellow",
    SyncState.LIMITED: "yellow",
}


def table(*heads: str, right: Sequence[str] = ()) -> Table:
    """`right`: columns of numbers."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for head in heads:
        made.add_column(head, justify="right" if head in right else "left", overflow="fold")
    return made


def cell(text: str, style: str = "") -> Text:
    """Text from outside as a cell: no markup is read in it, nothing in it reaches the terminal as a command."""
    return Text(line(text), style)


def state(value: SyncState) -> Text:
    return Text(value.value, _STATES.get(value, "red"))


def folded(rows: Iterable[tuple[str, Row]]) -> list[tuple[str, Row]]:
    """Nodes that say the same share a row, so that two hundred equal ones take one line."""
    groups: dict[Row, list[str]] = {}
    for name, row in rows:
        groups.setdefault(row, []).append(name)
    return [(fold(names), row) for row, names in groups.items()]
