"""How long people have held and used GPUs: a row for each person and GPU, and the sums."""

from rich.console import Group, RenderableType
from rich.text import Text

from provisioner.console.problems import problems
from provisioner.console.tables import cell, make_table
from provisioner.console.text import count
from provisioner.domain.rollout.gpu_usage import GpuUsage, person_of

_SHORT = 12  # characters of a UUID, its kind included: GPU-1b2c3d4e


def gpu_usage_view(usage: GpuUsage) -> Group:
    """Render the rows, the sums by person, the problems of nodes that are missing in them, and the whole sum."""
    numbers = ("held h", "used h", "used %")
    rows = make_table("person", "node", "GPU", *numbers, right=numbers)
    for row in usage.rows:
        rows.add_row(*map(cell, (person_of(row), row.node, row.gpu[:_SHORT], *_hours(row.held_s, row.used_s))))
    sums = make_table("person", *numbers, right=numbers)
    for person, (held, used) in usage.by_person.items():
        sums.add_row(*map(cell, (person, *_hours(held, used))))
    parts: list[RenderableType] = [rows, Text(), sums] if usage.rows else []
    return Group(*parts, problems(usage.unread.items()), Text(f"\n{_sum(usage)}"))


def _hours(held: int, used: int) -> tuple[str, str, str]:
    """Return hours held and used, and the share of use."""
    return f"{held / 3600:.1f}", f"{used / 3600:.1f}", f"{100 * used / held:.0f}" if held else ""


def _sum(usage: GpuUsage) -> str:
    held, used, _ = _hours(sum(row.held_s for row in usage.rows), sum(row.used_s for row in usage.rows))
    since = f" since {usage.since}" if usage.since else ""
    unread = f" Of {count(len(usage.unread), 'node')} it is not known." if usage.unread else ""
    people = count(len(usage.by_person), "person").replace("persons", "people")
    return f"{people}: {held} GPU hours held, {used} used{since}. Only leases are counted.{unread}"
