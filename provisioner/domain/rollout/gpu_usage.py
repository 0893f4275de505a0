"""How long people have held and used GPUs: the sums of all nodes of a lab."""

from collections.abc import Iterator
from datetime import date
from typing import Literal

from pydantic import Field

from provisioner.domain.rollout.leases import GpuUse
from provisioner.domain.values.model import Document
from provisioner.domain.values.problem import Problem

GPU_USAGE_SCHEMA: Literal["provisioner/gpu_usage/1"] = "provisioner/gpu_usage/1"


class NodeGpuUse(GpuUse):
    """The use of a GPU of this node by one person."""

    node: str


class GpuUsage(Document):
    """The use of GPUs by leases, by person, node and GPU. `since`: the first day (UTC); None: from the beginning.

    `unread`: nodes whose use is not known, and why. Seats that the admin has set up are not counted.
    """

    schema_: Literal["provisioner/gpu_usage/1"] = Field(default=GPU_USAGE_SCHEMA, alias="schema")
    lab: str
    since: date | None = None
    rows: tuple[NodeGpuUse, ...] = ()
    unread: dict[str, Problem] = {}

    @property
    def by_person(self) -> dict[str, tuple[int, int]]:
        """The seconds held and used by person; who has no name is called by the uid."""
        sums: dict[str, tuple[int, int]] = {}
        for row in self.rows:
            held, used = sums.get(person_of(row), (0, 0))
            sums[person_of(row)] = (held + row.held_s, used + row.used_s)
        return sums


def person_of(row: GpuUse) -> str:
    """Return the name of a person, or `uid N` where the node does not know it."""
    return row.person or f"uid {row.uid}"


def csv_rows(usage: GpuUsage) -> Iterator[tuple[str, ...]]:
    """Yield the head and the rows of a table for a spreadsheet, with hours to two decimals."""
    yield "person", "uid", "node", "gpu", "held_hours", "used_hours"
    for row in usage.rows:
        hours = (f"{seconds / 3600:.2f}" for seconds in (row.held_s, row.used_s))
        yield row.person, str(row.uid), row.node, row.gpu, *hours
