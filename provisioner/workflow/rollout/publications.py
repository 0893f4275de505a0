"""Plan what happens to the self-service of each node: install, update, keep or remove it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.rollout.plan import busy_problem
from provisioner.domain.rollout.publish import PublicationOrder
from provisioner.domain.seat.slotted import Documents
from provisioner.domain.self_service.config import (
    PublicationSource,
    Published,
    SelfServiceConfig,
    build_published,
)
from provisioner.domain.self_service.pool import pool_cautions, pool_source
from provisioner.domain.self_service.publication import (
    Publication,
    build_publication,
    build_withdrawal,
    elsewhere,
    skip_publication,
)
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Probed
from provisioner.workflow.rollout.pools import Pools, has_self_service
from provisioner.workflow.rollout.served import ServedNode

KnownConfig = Callable[[str], SelfServiceConfig | None]


def no_known_config(digest: str) -> SelfServiceConfig | None:  # noqa: ARG001
    """Return None: no configuration of an earlier run is known."""
    return None


class Program(NamedTuple):
    """This release. `known` returns the configuration of an earlier run by its digest, None where it is not known."""

    version: str = ""
    known: KnownConfig = no_known_config


class PublishInputs(NamedTuple):
    """What publications are planned from."""

    lab: Lab
    lock: Lockfile
    documents: Documents
    program: Program
    when_busy: WhenBusy = DEFER


class PlannedPublications(NamedTuple):
    """The publications in the order of the nodes, and what each node gets, by its name."""

    publications: tuple[Publication, ...]
    published: Mapping[str, Published]


def plan_publications(inputs: PublishInputs, nodes: Iterable[ServedNode], pools: Pools) -> PlannedPublications:
    """Plan for the nodes that can have seats; the others are skipped as a whole."""
    publications, published = list[Publication](), dict[str, Published]()
    for node in nodes:
        found = _plan_node(inputs, node, pools)
        if isinstance(found, Publication):
            publications.append(found)
        elif found is not None:
            publications.append(_publication(inputs, node, found))
            published[node.host.name] = found
    return PlannedPublications(tuple(publications), published)


def _plan_node(inputs: PublishInputs, node: ServedNode, pools: Pools) -> Publication | Published | None:
    """Return what a node gets, or a publication without anything to get; None: it neither has nor gets any."""
    lab, facts = inputs.lab, node.facts
    if has_self_service(lab, facts):
        pool = pools.get(facts.name, ())
        images = {name: found.image for name, found in node.environments.items() if {*pool} <= {*found.gpus}}
        source = PublicationSource(lab, inputs.lock, facts, images, pool, node.host.address)
        found = build_published(source, inputs.documents)
        return skip_publication(facts.name, found) if isinstance(found, Problem) else found
    installed = facts.self_service
    if installed is not None and installed.lab == lab.name:
        return withdraw(facts, "lab.yml has no self_service for this node any more", inputs.when_busy)
    if installed is not None and lab.self_service is not None and lab.self_service.covers(facts.name):
        return skip_publication(facts.name, elsewhere(facts.name, installed.lab))
    return None


def _publication(inputs: PublishInputs, node: ServedNode, found: Published) -> Publication:
    facts, program, settings = node.facts, inputs.program, inputs.lab.self_service
    in_force = facts.self_service.config if facts.self_service else found.config.digest
    before = None if in_force == found.config.digest else program.known(in_force)
    publication = build_publication(facts, found.config, program.version, before)
    wanted, source = settings.gpus if settings else None, pool_source(inputs.lab.name, facts, node.lent_gpus)
    cautions = (*pool_cautions(wanted, source, found.config.pool, facts), *_not_published(node, found.config))
    return publication.model_copy(update={"problems": (*publication.problems, *cautions)})


def _not_published(node: ServedNode, config: SelfServiceConfig) -> Iterator[Problem]:
    """Yield why the node has not each environment that a group may have."""
    allowed = dict.fromkeys(name for group in config.groups.values() for name in group.environments)
    for name in allowed:
        if name in config.environments:
            continue
        refusal = node.refusal(name, "self-service")
        if refusal is not None:
            yield refusal
        else:
            gpus = node.environments[name].gpus
            yield _not_for_pool(node.host.name, name, [gpu for gpu in config.pool if gpu not in gpus])


def _not_for_pool(node: str, environment: str, gpus: Sequence[str]) -> Problem:
    return Problem(
        "environment_not_for_pool",
        f"{node}: the environment {environment} does not run on {', '.join(gpus)}, which people can lease",
        "any GPU of the pool is given to a seat of any environment, so this one is not published there",
        "take these GPUs out of the pool: list those that it runs on as self_service.gpus in lab.yml",
        node,
    )


def withdraw(facts: NodeFacts, why: str, when_busy: WhenBusy) -> Publication:
    """Build the publication that removes self-service. With the policy defer, seats in use defer it."""
    found = build_withdrawal(facts, why)
    if not found.busy:
        return found
    changes: dict[str, object] = {"problems": (busy_problem(facts.name, found.busy, when_busy),)}
    if when_busy.policy == "defer":
        changes |= {"action": "defer", "why": f"{why}; its seats are in use"}
    return found.model_copy(update=changes)


def withdrawals(lab: str, probed: Probed, when_busy: WhenBusy) -> tuple[Publication, ...]:
    """Return the publications that remove the self-service of a lab from all probed nodes that have it."""
    why = "self-service is removed, with the seats that people have started themselves"
    nodes = (facts for facts in probed.values() if isinstance(facts, NodeFacts))
    return tuple(withdraw(facts, why, when_busy) for facts in nodes if is_installed(lab, facts))


def is_installed(lab: str, facts: NodeFacts) -> bool:
    """Whether the node has self-service of this lab."""
    return facts.self_service is not None and facts.self_service.lab == lab


def publication_orders(
    publications: Iterable[Publication],
    published: Mapping[str, Published],
    run: str,
    version: str,
    when_busy: WhenBusy = DEFER,
) -> dict[str, PublicationOrder]:
    """Return the order of each node that changes."""
    orders: dict[str, PublicationOrder] = {}
    for publication in publications:
        found = published.get(publication.node)
        if publication.action == "remove":
            orders[publication.node] = PublicationOrder(run=run, act="remove", version=version, when_busy=when_busy)
        elif publication.changes_node and found is not None:
            orders[publication.node] = PublicationOrder(
                run=run, act="publish", version=version, config=found.config, documents=dict(found.documents)
            )
    return orders
