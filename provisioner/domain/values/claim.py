"""Which run may change a node: one at a time, and never a run that a later one has replaced."""

from collections.abc import Iterable, Mapping
from statistics import median_low
from typing import Annotated

from pydantic import Field

from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem

# A fence counts runs: no lab comes near either number. Each run takes a fence above the highest of its nodes and writes
# it to all of them, so without these limits one node could use up the numbers of a whole lab.
MAX_FENCE = 1 << 52
_MAX_LEAD = 1_000_000
_FENCE_FILE = "/var/lib/provisioner/fence"

Fence = Annotated[int, Field(ge=0, le=2 * MAX_FENCE)]
_Text = Annotated[str, Field(max_length=1024)]


class Claim(Value):
    """A run's claim on a node. The node stores it and the highest `fence` it has seen, and refuses older runs."""

    run: _Text
    lab: _Text
    holder: _Text  # person@machine
    since: _Text  # ISO 8601, UTC
    fence: Fence
    verb: _Text = ""


def next_fence(seen: Iterable[int]) -> int:
    """Return a fence higher than every one that a node of the run has seen."""
    return max(seen, default=0) + 1


def implausible_fences(fences: Mapping[str, int]) -> dict[str, Problem]:
    """Return a problem for each node whose fence is far above the median of all `fences` (by node)."""
    if not fences:
        return {}
    usual = median_low(fences.values())
    return {name: _implausible(name, fence) for name, fence in fences.items() if fence > usual + _MAX_LEAD}


def _implausible(node: str, fence: int) -> Problem:
    return Problem(
        "fence_implausible",
        f"{node} reports the fence {fence}; the other nodes are far below it",
        "a run writes the highest fence to all of its nodes, and a damaged number would spread to them",
        f"make sure that no run is active, then write the fence of another node into {_FENCE_FILE} on {node}",
        node,
    )


def claimed(claim: Claim) -> Problem:
    """Return the problem of a node that another run has claimed. The node code reports the same text."""
    return Problem(
        "claimed",
        f"the node is claimed by run {claim.run} of {claim.holder} (lab {claim.lab}) since {claim.since}",
        "only one run may change a node at a time",
        f"wait for that run; if it was interrupted: provision resume; to take over: --break-lock {claim.run}",
    )
