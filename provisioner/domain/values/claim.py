"""Who may change a node: one run at a time, and none that a later one has taken over from."""

from collections.abc import Iterable

from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem


class Claim(Value):
    """A run's hold on its nodes. Each keeps it, and the highest `fence` that it has seen: older runs are refused."""

    run: str
    lab: str
    holder: str  # person@machine
    since: str  # ISO 8601, UTC
    fence: int
    verb: str = ""


def next_fence(seen: Iterable[int]) -> int:
    """Above all that any node of the run has seen."""
    return max(seen, default=0) + 1


def claimed(claim: Claim) -> Problem:
    """What another run is told. The node says the same in the same words."""
    return Problem(
        "claimed",
        f"the node is claimed by run {claim.run} of {claim.holder} (lab {claim.lab}) since {claim.since}",
        "only one run may change a node at a time",
        f"wait for that run; if it was interrupted: provision resume; to take over: --break-lock {claim.run}",
    )
