"""Which GPUs of each node people may lease themselves, beside the places of the people of a roster."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import Placement
from provisioner.domain.people.person import Person
from provisioner.domain.people.placement import NodeOffer, Placements, place
from provisioner.domain.self_service.pool import (
    PoolSetting,
    PoolSource,
    choose_pool,
    is_of_another_lab,
    keep_pool,
    pool_source,
)
from provisioner.domain.values.node import NodeFacts
from provisioner.workflow.rollout.served import ServedNode

Pools = Mapping[str, tuple[str, ...]]  # by node; a node without self-service has none


class PlacedBesidePools(NamedTuple):
    """The places of people, the pools, and what each node offers to people: the GPUs outside of its pool."""

    placements: Placements
    pools: Pools
    offers: Mapping[str, NodeOffer]


def has_self_service(lab: Lab, facts: NodeFacts) -> bool:
    """Whether the lab is to have self-service on a node. A node where another lab has it is left to that one."""
    is_elsewhere = is_of_another_lab(lab.name, facts.self_service)
    return lab.self_service is not None and lab.self_service.covers(facts.name) and not is_elsewhere


def pools_without_people(lab: Lab, served: Mapping[str, ServedNode | None]) -> Pools:
    """Return the pools of a lab without a roster."""
    wanted = lab.self_service.gpus if lab.self_service else None
    return {name: choose_pool(wanted, source, ()) for name, source in _sources(lab, served).items()}


def gpus_beside_pool(lab: Lab, node: ServedNode) -> tuple[str, ...]:
    """Return the GPUs of a node outside of the pool in force."""
    pool = _sources(lab, {node.host.name: node}).get(node.host.name)
    return tuple(gpu for gpu in node.gpus if pool is None or gpu not in pool.reported)


def place_beside_pools(
    lab: Lab,
    served: Mapping[str, ServedNode | None],
    people: Sequence[Person],
    before: Mapping[str, Placement],
    unknown: Mapping[str, NodeOffer],
) -> PlacedBesidePools:
    """Place people and choose the pools. `unknown`: offers of nodes that are not planned for.

    What is in a pool stays there, then people with own GPUs are placed, and then the pools get what they lack. Where
    they get every GPU that is left, new people who share come after that: they are placed where there is no pool. So a
    plan that is made again after its own rollout changes neither places nor pools.
    """
    sources, wanted = _sources(lab, served), lab.self_service.gpus if lab.self_service else None
    rows = {person.id for person in people}
    owned = {gpu for name, held in before.items() if name in rows for gpu in held.gpus}
    kept = {name: keep_pool(wanted, source, owned) for name, source in sources.items()}
    offers = {**unknown, **_offers(served, sources, kept)}
    takes_all = bool(sources) and wanted is None
    earlier = [one for one in people if not (takes_all and one.gpus == "shared" and one.id not in before)]
    first = place(earlier, list(offers.values()), before)
    pools = _pools(sources, wanted, earlier, first)
    if pools == kept and len(earlier) == len(people):
        return PlacedBesidePools(first, pools, offers)
    offers = {**unknown, **_offers(served, sources, pools)}
    again = place(people, list(offers.values()), {**before, **first.places})
    return PlacedBesidePools(again._replace(cautions=first.cautions), pools, offers)


def _sources(lab: Lab, served: Mapping[str, ServedNode | None]) -> dict[str, PoolSource]:
    return {
        name: pool_source(lab.name, node.facts, node.lent_gpus)
        for name, node in served.items()
        if node is not None and has_self_service(lab, node.facts)
    }


def _offers(
    served: Mapping[str, ServedNode | None], sources: Mapping[str, PoolSource], pools: Pools
) -> dict[str, NodeOffer]:
    return {
        name: NodeOffer(name=name, gpus=None)
        if node is None
        else node.offer(_offered(node.gpus, sources.get(name), pools))
        for name, node in served.items()
    }


def _offered(gpus: tuple[str, ...], source: PoolSource | None, pools: Pools) -> tuple[str, ...]:
    """Return what a node offers to people; what somebody has leased now comes last."""
    if source is None:
        return gpus
    left = (gpu for gpu in gpus if gpu not in pools[source.node])
    return tuple(sorted(left, key=source.leased.__contains__))


def _pools(
    sources: Mapping[str, PoolSource], wanted: PoolSetting, people: Sequence[Person], found: Placements
) -> dict[str, tuple[str, ...]]:
    owned = {gpu for held in found.places.values() for gpu in held.gpus}
    sharing = {found.places[one.id].node for one in people if one.gpus == "shared" and one.id in found.places}
    return {name: choose_pool(wanted, source, owned, has_sharers=name in sharing) for name, source in sources.items()}
