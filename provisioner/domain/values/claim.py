"""Which run may change a node or a seat: one at a time, and never a run that a later one has replaced."""

from collections.abc import Iterable, Mapping
from statistics import median_low
from typing import Annotated, Literal

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
_MAX_SEATS = 4096

Scope = Literal["node", "seats"]


class Claim(Value):
    """A run's claim on a node: on the whole of it, or on the `seats` of that scope, by their names.

    The node stores it with the highest `fence` that it has seen for each seat, and refuses older runs.
    """

    run: _Text
    lab: _Text
    holder: _Text  # person@machine
    since: _Text  # ISO 8601, UTC
    fence: Fence
    verb: _Text = ""
    scope: Scope = "node"
    seats: Annotated[tuple[_Text, ...], Field(max_length=_MAX_SEATS)] = ()

    def of_seats(self, seats: Iterable[str]) -> "Claim":
        """Return the claim for these seats of a node; one of the whole node stays as it is."""
        return self if self.scope == "node" else self.model_copy(update={"seats": tuple(seats)})

    def covers(self, seat: str | None) -> bool:
        """Whether no other run may change this seat; None stands for the whole node."""
        return self.scope == "node" or seat in self.seats

    def overlaps(self, other: "Claim") -> bool:
        """Whether the two have a seat in common, so that a node does not accept both."""
        return "node" in {self.scope, other.scope} or not {*self.seats}.isdisjoint(other.seats)


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
    """Return the problem of what another run has claimed. The node code reports the same text."""
    return Problem(
        "claimed",
        f"{_what(claim)} claimed by run {claim.run} of {claim.holder} (lab {claim.lab}) since {claim.since}",
        "only one run may change a seat at a time",
        f"wait for that run; if it was interrupted: provision resume; to take over: --break-lock {claim.run}",
    )


def _what(claim: Claim) -> str:
    """Return what a claim covers, with its verb."""
    if claim.scope == "node":
        return "the node is"
    seats = claim.seats
    return f"the seat {seats[0]} is" if len(seats) == 1 else f"{len(seats)} seats of the node are"
