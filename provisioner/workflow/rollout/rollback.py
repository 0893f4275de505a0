"""Plan a rollback: the generation that each node returns to, among those it keeps."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.rollout.order import RollbackOrder, SeatName
from provisioner.domain.rollout.plan import Plan, Step, skipped, with_busy_policy
from provisioner.domain.rollout.publish import PublicationOrder
from provisioner.domain.seat.seat import running_seat_names_on
from provisioner.domain.self_service.config import Published, SelfServiceConfig
from provisioner.domain.self_service.publication import Publication, build_publication
from provisioner.domain.values.node import NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Host, Probed
from provisioner.workflow.rollout.publications import is_installed


def plan_rollback(  # noqa: PLR0913  (whose seats, to which generation, and the policy for busy ones)
    lab: str, user: str, hosts: Sequence[Host], probed: Probed, to: int | None, *, when_busy: WhenBusy = DEFER
) -> Plan:
    """Plan the return of the user's seats to generation `to`; None: to the one before.

    Each node checks first that it has kept the generation.
    """
    steps = (step for host in hosts for step in _steps(lab, user, host.name, probed[host.name], (to, when_busy)))
    return Plan(lab=lab, image=None, steps=tuple(steps), when_busy=when_busy)


class EarlierPublications(Protocol):
    """What earlier runs have published."""

    def config(self, digest: str) -> SelfServiceConfig | None:
        """Return the configuration with this digest, None where it is not known."""
        ...

    def before(self, node: str, digest: str) -> PublicationOrder | None:
        """Return what the node had before this configuration, None where it is not known."""
        ...


def with_earlier_publications(
    plan: Plan, probed: Probed, earlier: EarlierPublications, version: str
) -> tuple[Plan, dict[str, Published]]:
    """Return a plan of a rollback with the self-service of its nodes, and what each of them gets.

    The pool stays as it is. `version`: of the program of this release, which a rollback does not change.
    """
    publications, published = list[Publication](), dict[str, Published]()
    for node in dict.fromkeys((*plan.nodes, *probed)):
        facts = probed[node]
        if not isinstance(facts, NodeFacts) or not is_installed(plan.lab, facts) or facts.self_service is None:
            continue
        digest = facts.self_service.config
        order = earlier.before(node, digest)
        if order is None or order.config is None:
            publications.append(_no_earlier_publication(facts, digest))
            continue
        # A GPU of the pool of before may be that of a row of the roster by now.
        config = order.config.model_copy(update={"pool": facts.self_service.pool})
        published[node] = Published(config, order.documents)
        publications.append(build_publication(facts, config, version, earlier.config(digest)))
    return plan.model_copy(update={"publications": tuple(publications)}), published


def _no_earlier_publication(facts: NodeFacts, digest: str) -> Publication:
    found = facts.self_service
    return Publication(
        node=facts.name,
        action="keep",
        why="no run on this machine has published anything before it",
        was=digest,
        config=digest,
        environments=found.environments if found else {},
    )


def rollback_orders(plan: Plan, run: str, to: int | None) -> dict[str, dict[str, RollbackOrder]]:
    """Return the orders of the pending seats. `expects`: a seat whose generation has changed since refuses it."""
    orders: dict[str, dict[str, RollbackOrder]] = {}
    for step in plan.pending:
        if step.seat:
            orders.setdefault(step.node, {})[step.seat] = RollbackOrder(
                run=run, seat=SeatName(name=step.seat), to=to or 0, expects=step.generation, when_busy=plan.when_busy
            )
    return orders


def _steps(
    lab: str, user: str, node: str, facts: NodeFacts | Problem, how: tuple[int | None, WhenBusy]
) -> Iterator[Step]:
    if isinstance(facts, Problem):
        yield skipped(node, (facts,))
        return
    names = running_seat_names_on(facts, lab, user)
    if is_installed(lab, facts):
        names = tuple(name for name in names if facts.seat(name))  # the node may have self-service alone
    for name in names:
        yield _step(node, name, facts.seat(name), how)


def _step(node: str, name: str, seat: RunningSeat | None, how: tuple[int | None, WhenBusy]) -> Step:
    to, when_busy = how
    if seat and seat.unreadable:
        return skipped(node, seat.unreadable, name)
    if seat is None or not seat.generation:
        what, fix = f"{node} has no seat {name}", "provision rollout creates the seat"
        return skipped(node, (Problem("no_seat", what, "there is nothing to roll back", fix, node),), name)
    wanted = to or seat.previous
    if not wanted:
        return skipped(node, (_no_earlier_generation(node, seat.generation),), name)
    if wanted == seat.generation:
        return Step(node=node, seat=name, action="keep", why=f"runs generation {wanted}", generation=wanted)
    why = f"from generation {seat.generation} back to {wanted}"
    step = Step(node=node, seat=name, action="update", why=why, generation=seat.generation)
    return with_busy_policy(step, seat, when_busy)


def _no_earlier_generation(node: str, generation: int) -> Problem:
    return Problem(
        "nothing_to_go_back_to",
        f"{node} keeps no generation before {generation}",
        "this is its first one, or it was rolled back already; a node keeps one generation besides the current one",
        "set image.torch in lab.yml, then: provision lock, provision rollout",
        node,
    )
