"""Which run may change a node: one at a time, and never a run that a later one has replaced."""

from collections.abc import Iterable

from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem


class Claim(Value):
    """A run's claim on a node. The node stores it and the highest `fence` it has seen, and refuses older runs."""

    run: str
    lab: str
    holder: str  # person@machine
    since: str  # ISO 8601, UTC
    fence: int
    verb: str = ""


def next_fence(seen: Iterable[int]) -> int:
    """Return a fence higher than every one that a node of the run has seen."""
    return max(seen, default=0) + 1


def claimed(claim: Claim) -> Problem:
    """Return the problem of a node that another run has claimed. The node code reports the same text."""
    return Problem(
        "claimed",
        f"the node is claimed by run {claim.run} of {claim.holder} (lab {claim.lab}) since {claim.since}",
        "only one run may change a node at a time",
        f"wait for that run; if it was interrupted: provision resume; to take over: --break-lock {claim.run}",
    )
