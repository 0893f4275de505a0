"""The result of a run: each seat and each node in exactly one state; the run is done only if every node is."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from pydantic import Field

from provisioner.domain.seat.seat import Seat, jupyter_url, needs_tunnel
from provisioner.domain.values.model import Document, Value
from provisioner.domain.values.problem import UNREACHED, Problem

REPORT_SCHEMA: Literal["provisioner/report/2"] = "provisioner/report/2"

# unchanged: no change was needed · committed: runs the new generation, verified · rolled_back: runs the previous one
# failed: nothing old was stopped · needs_attention: the rollback failed as well
# deferred: its GPUs are in use, or the maintenance window has closed · stale: changed since the plan; not touched
# staged: all new files and images are on the node and checked, nothing old was stopped; not a final state
# not_started: the run stopped before it · unknown: contact was lost, the node ends on old or new on its own
NodeState = Literal[
    "unchanged",
    "staged",
    "committed",
    "rolled_back",
    "failed",
    "needs_attention",
    "deferred",
    "stale",
    "skipped",
    "unreachable",
    "unknown",
    "not_started",
]
# The state of a node is the worst state of its seats.
WORST_FIRST: tuple[NodeState, ...] = (
    "needs_attention",
    "unknown",
    "unreachable",
    "failed",
    "rolled_back",
    "stale",
    "not_started",
    "deferred",
    "skipped",
    "staged",
    "committed",
    "unchanged",
)
DONE: frozenset[NodeState] = frozenset({"unchanged", "committed"})
# States that count as failures: a node that is deferred, stale or skipped was not changed.
BAD: frozenset[NodeState] = frozenset({"failed", "rolled_back", "needs_attention", "unknown", "unreachable"})


class GpuCheck(Value):
    """The result of the check inside the container. `method`: torch ran a kernel, or only the driver was queried."""

    method: Literal["torch", "driver"]
    uuids: tuple[str, ...]
    detail: str = ""


class Access(Value):
    """How to connect to a seat, without its token: `provision status --urls` fetches that on request.

    `tunnel`: the command that forwards Jupyter to the user's machine if it is published on the node's loopback only.
    `host`, `port` and `user` are the parts of `ssh`; empty and 0 in a record of an earlier release.
    """

    jupyter: str
    ssh: str
    tunnel: str = ""
    host_key: str = ""
    host: str = ""
    port: int = 0
    user: str = ""


def build_access(seat: Seat, host_key: str, *, local: bool = False) -> Access:
    """Build the access to a seat. `local`: the user is on the node itself and can use its loopback."""
    ssh = f"ssh -p {seat.ports['ssh']} {seat.user}@{seat.binds['ssh']}"
    return Access(
        jupyter=jupyter_url(seat, local=local),
        ssh=ssh,
        tunnel=f"{ssh} -N -L 8888:jupyter:8888" if needs_tunnel(seat) and not local else "",
        host_key=host_key,
        host=seat.binds["ssh"],
        port=seat.ports["ssh"],
        user=seat.user,
    )


class SeatRecord(Value):
    """The report of a node about the transaction of one seat."""

    seat: str
    state: NodeState
    generation: int = 0
    checks: dict[str, str] = {}  # verification -> result
    gpu: GpuCheck | None = None
    access: Access | None = None
    problems: tuple[Problem, ...] = ()
    seconds: float = 0.0


class EnvironmentRecord(Value):
    """An environment of a node's self-service: its version, and how its publication ended."""

    version: str
    state: NodeState | Literal["published", "removed"]


class NodeRecord(Value):
    """The report of a node about the transactions of its seats: see `build_node_record`.

    Without `seats` it applies to all seats of the node. In a report `counts` says how many seats ended in each state,
    and `seats` leaves out those that are unchanged. Where the node has one seat, the other fields are those of this
    seat. `environments`: of its self-service, by name; in a report alone, see `with_environments`.
    """

    node: str
    state: NodeState
    counts: dict[NodeState, int] = {}
    seats: tuple[SeatRecord, ...] = ()
    generation: int = 0
    checks: dict[str, str] = {}  # verification -> result
    gpu: GpuCheck | None = None
    access: Access | None = None
    problems: tuple[Problem, ...] = ()
    seconds: float = 0.0
    released: bool = False  # the run no longer claims the node
    environments: dict[str, EnvironmentRecord] = {}


def build_node_record(node: str, seats: Sequence[SeatRecord], *, released: bool = False) -> NodeRecord:
    """Return the record of a node from those of its seats, at least one: the worst state, and all problems."""
    if len(seats) == 1:
        fields = {name: value for name, value in seats[0] if name != "seat"}
        return NodeRecord(node=node, **fields, seats=tuple(seats), released=released)
    worst = min((seat.state for seat in seats), key=WORST_FIRST.index)
    problems = tuple(dict.fromkeys(problem for seat in seats for problem in seat.problems))
    seconds = max(seat.seconds for seat in seats)
    return NodeRecord(node=node, state=worst, seats=tuple(seats), problems=problems, seconds=seconds, released=released)


def merge_records(before: NodeRecord | None, after: NodeRecord) -> NodeRecord:
    """Return one record of two steps on the same node: for each seat the later one."""
    if before is None or not before.seats or not after.seats:
        return after
    seats = {seat.seat: seat for seat in (*before.seats, *after.seats)}
    return build_node_record(after.node, tuple(seats.values()), released=after.released)


def with_environments(
    record: NodeRecord | None, own: SeatRecord, node: str, environments: Mapping[str, EnvironmentRecord]
) -> NodeRecord:
    """Return the record of a node with that of its self-service. `record`: of its seats, None where it has none."""
    if record is None:
        alone = build_node_record(node, [own])
        return alone.model_copy(update={"seats": (), "environments": dict(environments)})
    changes = {
        "state": min(record.state, own.state, key=WORST_FIRST.index),
        "problems": tuple(dict.fromkeys((*record.problems, *own.problems))),
        "environments": dict(environments),
    }
    return record.model_copy(update=changes)


def without_record(node: str, problem: Problem) -> NodeRecord:
    """Return the record of a node that did not answer, or that refused, because of `problem`."""
    return NodeRecord(node=node, state="unreachable" if problem.code in UNREACHED else "failed", problems=(problem,))


class RolloutReport(Document):
    """The result of a whole run."""

    schema_: Literal["provisioner/report/2", "provisioner/report/1"] = Field(default=REPORT_SCHEMA, alias="schema")
    lab: str
    run: str
    started_at: datetime
    ended_at: datetime
    image: str | None = None
    nodes: tuple[NodeRecord, ...] = ()
    unplaced: dict[str, Problem] = {}  # why people of the roster have no node, by id
    stopped: Problem | None = None  # why nodes were not started

    @property
    def done(self) -> bool:
        """Whether every node is unchanged or committed, and every person has one."""
        return not self.unplaced and all(record.state in DONE for record in self.nodes)

    @property
    def seat_counts(self) -> dict[NodeState, int]:
        """How many seats ended in each state; a node without counts is one."""
        counts = Counter[NodeState]()
        for record in self.nodes:
            counts.update(record.counts or {record.state: 1})
        return dict(counts)

    @property
    def home_faults(self) -> int:
        """How many seats work only with an empty home. They are committed, but a check failed."""
        return sum(problem.code == "home_fault" for record in self.nodes for problem in record.problems)
