"""Claims: a run claims all that it will change before it changes the first node, and releases it at its end."""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress

from provisioner.domain.rollout.report import NodeRecord, NodeState
from provisioner.domain.values.claim import Claim, claimed, next_fence
from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import UNREACHED, Problem, ProblemError
from provisioner.workflow.protocols import Probed, SupportsClaims

# A node in one of these states cannot be asked to release its claim.
_OUT_OF_REACH: frozenset[NodeState] = frozenset({"unreachable", "unknown"})
# The codes by which a node refuses a claim because of another run. Any other problem is a fault of the node.
_HELD_BY_ANOTHER = frozenset({"claimed", "fenced"})


def fence_above(probed: Probed) -> int:
    """Return a fence number above every one that these nodes have seen."""
    return next_fence(facts.fence for facts in probed.values() if isinstance(facts, NodeFacts))


def refuse_claimed(probed: Probed, claims: Mapping[str, Claim], breaks: str) -> None:
    """Raise ProblemError (locked) where a run other than `breaks` has claimed something that `claims` cover, by node.

    Called before the user is asked for confirmation.
    """
    found = [
        held
        for node, claim in claims.items()
        for held in _claims_on(probed[node])
        if held.run not in (claim.run, breaks) and held.overlaps(claim)
    ]
    _refuse(found)


def refuse_any_claim(probed: Probed) -> None:
    """Raise ProblemError (locked) where a run has claimed a node, or a seat of it."""
    _refuse(held for facts in probed.values() for held in _claims_on(facts))


def _claims_on(facts: NodeFacts | Problem) -> tuple[Claim, ...]:
    return facts.claims if isinstance(facts, NodeFacts) else ()


def _refuse(found: Iterable[Claim]) -> None:
    """Raise ProblemError (locked) with one problem for each run among the claims."""
    if by_run := {claim.run: claim for claim in found}:
        raise ProblemError(map(claimed, by_run.values()), "locked")


def claim_nodes(  # noqa: PLR0913  (what to claim, for whom, and what is known of the nodes)
    fleet: SupportsClaims,
    claim: Claim,
    claims: Mapping[str, Claim],
    breaks: str,
    on_event: OnEvent,
    *,
    begun: Collection[str] = (),
) -> dict[str, NodeRecord]:
    """Take the claims of a run, by node. Return the records of nodes that did not: unreachable, or with a fault.

    `begun`: nodes that the run has begun to change; with a fault their state is unknown and not `failed`.
    Raises ProblemError (locked) where another run holds something of them, after the others are released.
    """
    over = f", over run {breaks}" if breaks else ""
    on_event(Event(phase="claim", kind="started", text=f"run {claim.run}{over}", total=len(claims)))
    answers = fleet.claim(claims, breaks)
    refused = {node: problem for node, problem in answers.items() if problem and problem.code in _HELD_BY_ANOTHER}
    if refused:
        fleet.release(claim, [node for node, problem in answers.items() if problem is None])
        raise ProblemError(_distinct_reasons(refused), "locked")
    done = sum(problem is None for problem in answers.values())
    on_event(Event(phase="claim", kind="done", text=f"run {claim.run}", done=done, total=len(claims)))
    return {
        node: NodeRecord(node=node, state=_state_without_claim(problem, is_begun=node in begun), problems=(problem,))
        for node, problem in answers.items()
        if problem
    }


def _state_without_claim(problem: Problem, *, is_begun: bool) -> NodeState:
    if problem.code in UNREACHED:
        return "unreachable"
    return "unknown" if is_begun else "failed"


def release_claims(
    fleet: SupportsClaims, claim: Claim, nodes: Iterable[str], records: Mapping[str, NodeRecord]
) -> None:
    """Release the nodes that the run still holds at its end. An unreachable one has to be taken over by a later run."""
    held = [node for node in nodes if node not in records or _is_held(records[node])]
    with suppress(ProblemError):  # the work is done, and the report matters more
        fleet.release(claim, held)


def _is_held(record: NodeRecord) -> bool:
    return not record.released and record.state not in _OUT_OF_REACH


def _distinct_reasons(refused: Mapping[str, Problem]) -> list[Problem]:
    """Return each reason once, with the first node that gave it."""
    first: dict[Problem, str] = {}
    for node, problem in refused.items():
        first.setdefault(problem, node)
    return [p.model_copy(update={"what": f"{node}: {p.what}", "node": node}) for p, node in first.items()]
