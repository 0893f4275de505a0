"""Build the status of a lab from the plan that would be made now: what runs on each node, and how it differs."""

from provisioner.domain.lab.ordered import order_image
from provisioner.domain.rollout.plan import Step
from provisioner.domain.rollout.report import build_access
from provisioner.domain.rollout.status import LabStatus, SeatStatus, disk_problems, self_service_status
from provisioner.domain.values.claim import Claim
from provisioner.domain.values.node import NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Probed
from provisioner.workflow.rollout.plan import PreparedPlan

_FEW = 3  # seats of a claim are named up to this number, and counted above it


def build_status(prepared: PreparedPlan, probed: Probed, *, local: bool = False) -> LabStatus:
    """Return one entry per node of the plan, in its order. `local`: the user is at the machine of the seat."""
    seats = tuple(_seat_status(step, prepared, probed[step.node], local=local) for step in prepared.plan.steps)
    lab, drift = prepared.plan.lab, {one.node: one.why for one in prepared.plan.publications if one.action != "keep"}
    nodes = (facts for facts in probed.values() if isinstance(facts, NodeFacts))
    found = (self_service_status(facts, lab, drift.get(facts.name, "")) for facts in nodes)
    own = tuple(status for status in found if status is not None)
    to_fetch = _to_fetch(prepared, probed)
    return LabStatus(lab=lab, seats=seats, unplaced=prepared.plan.unplaced, self_service=own, to_fetch=to_fetch)


def _to_fetch(prepared: PreparedPlan, probed: Probed) -> dict[str, int]:
    """Return the bytes of the images of its seats that each node lacks, without the nodes that lack none."""
    found: dict[str, dict[str, int]] = {}
    for node, bundles in prepared.bundles.items():
        facts = probed[node]
        for bundle in bundles.values():
            digest = order_image(bundle.image).digest
            if isinstance(facts, NodeFacts) and digest not in facts.images:
                found.setdefault(node, {})[digest] = bundle.image.bytes
    return {node: sum(sizes.values()) for node, sizes in found.items()}


def _seat_status(step: Step, prepared: PreparedPlan, facts: NodeFacts | Problem, *, local: bool) -> SeatStatus:
    running = facts.seat(step.seat) if isinstance(facts, NodeFacts) else None
    bundle = prepared.bundle(step)
    disk, limit = running.disk if running else None, _disk_limit(step, prepared, running)
    return SeatStatus(
        node=step.node,
        seat=step.seat,
        person=step.person or (running.person if running else ""),
        gpus=running.gpus if running else (),
        shared=running.shared if running else False,
        since=running.since if running else None,
        uid=running.uid if running else None,
        disk=disk,
        disk_limit=limit,
        image=running.image if running else None,
        generation=step.generation,
        services=running.services if running else {},
        drift=_drift(step, running),
        access=build_access(bundle.seat, running.host_key, local=local) if bundle and running else None,
        problems=(
            *step.problems,
            *step.remarks,
            *(running.drift if running else ()),
            *disk_problems(step.node, step.seat or "", disk, limit),
        ),
        remarks=_remarks(facts, step, running),
        environment=bundle.seat.environment if bundle else running.environment if running else "",
    )


def _disk_limit(step: Step, prepared: PreparedPlan, running: RunningSeat | None) -> int | None:
    """Return the limit that lab.yml sets, also before a rollout; where the seat is not planned, that of the node."""
    wanted = prepared.disk_limits.get(step.node, {})
    return wanted.get(step.seat or "", running.disk_limit if running else None)


def _held_by(claim: Claim) -> str:
    names = ", ".join(claim.seats) if len(claim.seats) <= _FEW else f"{len(claim.seats)} seats"
    what = "" if claim.scope == "node" else f": {names}"
    return f"held by {claim.verb or 'a run'} {claim.run} of {claim.holder} since {claim.since}{what}"


def _drift(step: Step, running: RunningSeat | None) -> str:
    """Return what the plan would change, else the first drift that the node reports, else an empty string."""
    if step.action != "keep":
        return step.why
    return running.drift[0].what if running and running.drift else ""


def _remarks(facts: NodeFacts | Problem, step: Step, running: RunningSeat | None) -> tuple[str, ...]:
    """Return which runs hold the seat, or others of a node without a roster, and which one rolled it back."""
    if isinstance(facts, Problem):
        return ()
    held = tuple(_held_by(claim) for claim in facts.claims if claim.covers(step.seat) or not step.person)
    last = facts.last
    rolled_back = running and last and last.verb == "rollback" and running.run == last.run
    return (*held, f"rolled back on purpose by {last.holder}, run {last.run}") if last and rolled_back else held
