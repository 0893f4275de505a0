"""All the nodes that a run will change are its own before the first of them is touched, and nobody's when it ends."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from provisioner.domain.rollout.report import NodeRecord, NodeState
from provisioner.domain.values.claim import Claim, claimed, next_fence
from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.protocols import Claims, Probed

# Nobody can tell these anything.
_OUT_OF_REACH: frozenset[NodeState] = frozenset({"unreachable", "unknown"})


def fence_above(probed: Probed) -> int:
    return next_fence(facts.fence for facts in probed.values() if isinstance(facts, NodeFacts))


def refuse_held(probed: Probed, nodes: Iterable[str], run: str, breaks: str) -> None:
    """Raises ProblemError (locked) where another run holds one of `nodes`: before anybody is asked anything."""
    held = [facts.claim for node in nodes if isinstance(facts := probed[node], NodeFacts) and facts.claim]
    others = {claim.run: claim for claim in held if claim.run not in (run, breaks)}
    if others:
        raise ProblemError(map(claimed, others.values()), "locked")


def take(fleet: Claims, claim: Claim, nodes: Sequence[str], breaks: str, on_event: OnEvent) -> dict[str, NodeRecord]:
    """All of them or none. The records of those that cannot be reached any more.

    Raises ProblemError (locked) where another run holds one, once those that were taken are let go.
    """
    over = f", over run {breaks}" if breaks else ""
    on_event(Event(phase="claim", kind="started", text=f"run {claim.run}{over}", total=len(nodes)))
    answers = fleet.claim(claim, nodes, breaks)
    away = {node: problem for node, problem in answers.items() if problem and problem.code == "unreachable"}
    refused = {node: problem for node, problem in answers.items() if problem and node not in away}
    if refused:
        fleet.release(claim, [node for node, problem in answers.items() if problem is None])
        raise ProblemError(_told(refused), "locked")
    on_event(Event(phase="claim", kind="done", text=f"run {claim.run}", done=len(nodes), total=len(nodes)))
    return {node: NodeRecord(node=node, state="unreachable", problems=(problem,)) for node, problem in away.items()}


def release_claims(fleet: Claims, claim: Claim, nodes: Iterable[str], records: Mapping[str, NodeRecord]) -> None:
    """What the run still holds at its end. A node that cannot be told so has to be taken over by a later run."""
    held = [node for node in nodes if node not in records or _is_held(records[node])]
    with suppress(ProblemError):  # all is done that was to be done, and the report matters more
        fleet.release(claim, held)


def _is_held(record: NodeRecord) -> bool:
    return not record.released and record.state not in _OUT_OF_REACH


def _told(refused: Mapping[str, Problem]) -> list[Problem]:
    """Each reason once, with the node that gave it first."""
    first: dict[Problem, str] = {}
    for node, problem in refused.items():
        first.setdefault(problem, node)
    return [problem.model_copy(update={"what": f"{node}: {problem.what}"}) for problem, node in first.items()]
