"""How a run ended: each node in exactly one state, and the run done only where every node is."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from provisioner.domain.seat.seat import Seat
from provisioner.domain.values.model import Document, Value
from provisioner.domain.values.problem import Problem

REPORT_SCHEMA: Literal["provisioner/report/1"] = "provisioner/report/1"

# unchanged: had nothing to do · committed: runs the new generation, verified · rolled_back: runs what it ran before
# failed: nothing old was stopped · needs_attention: going back failed too
# deferred: someone works on it, or the lab's window has closed · stale: it moved since the plan was made; not touched
# staged: everything new is on the node and proven, nothing old stopped; no run ends so
# not_started: the run stopped before it · unknown: contact was lost, the node ends on old or new by itself
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
DONE: frozenset[NodeState] = frozenset({"unchanged", "committed"})
# What a budget of failures counts: a node that is deferred, stale or left out was not harmed, nor lost.
BAD: frozenset[NodeState] = frozenset({"failed", "rolled_back", "needs_attention", "unknown", "unreachable"})


class GpuCheck(Value):
    """What the check inside the container saw. `method`: torch ran a kernel, or only the driver was asked."""

    method: Literal["torch", "driver"]
    uuids: tuple[str, ...]
    detail: str = ""


class Access(Value):
    """How a seat is reached. No token here: `provision status --urls` fetches it when a person asks.

    `tunnel` is the command that brings Jupyter to one's own machine where it is published on the node's loopback.
    """

    jupyter: str
    ssh: str
    tunnel: str = ""
    host_key: str = ""


def access_of(seat: Seat, host_key: str, *, local: bool = False) -> Access:
    """`local`: the reader sits at the node itself, so its loopback is theirs."""
    ssh = f"ssh -p {seat.ports['ssh']} {seat.user}@{seat.binds['ssh']}"
    hidden = not local and seat.binds["jupyter"] == "127.0.0.1"
    return Access(
        jupyter="http://127.0.0.1:8888/lab"
        if hidden
        else f"http://{seat.binds['jupyter']}:{seat.ports['jupyter']}/lab",
        ssh=ssh,
        tunnel=f"{ssh} -N -L 8888:jupyter:8888" if hidden else "",
        host_key=host_key,
    )


class NodeRecord(Value):
    """What a node itself reports of a transaction."""

    node: str
    state: NodeState
    generation: int = 0
    checks: dict[str, str] = {}  # verification -> what was seen
    gpu: GpuCheck | None = None
    access: Access | None = None
    problems: tuple[Problem, ...] = ()
    seconds: float = 0.0
    released: bool = False  # the node is not held for the run any more


class RolloutReport(Document):
    schema_: Literal["provisioner/report/1"] = Field(default=REPORT_SCHEMA, alias="schema")
    lab: str
    run: str
    started_at: datetime
    ended_at: datetime
    image: str | None = None
    nodes: tuple[NodeRecord, ...] = ()
    stopped: Problem | None = None  # why nodes were not started

    @property
    def done(self) -> bool:
        return all(record.state in DONE for record in self.nodes)
