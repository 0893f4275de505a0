"""The pool of a node: the GPUs that leases are given from. No row of the roster has one of them alone."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from provisioner.domain.values.node import NodeFacts, SelfServiceFacts
from provisioner.domain.values.problem import Problem

PoolSetting = int | tuple[str, ...] | None  # as in lab.yml


class PoolSource(NamedTuple):
    """What a pool is chosen from. `offered`: the GPUs (UUIDs) of the node that a seat can use, in NVML's order.

    `reported`: the pool in force; `leased`: those of its GPUs that somebody has now.
    """

    node: str
    offered: tuple[str, ...]
    reported: tuple[str, ...] = ()
    leased: frozenset[str] = frozenset()


def is_of_another_lab(lab: str, found: SelfServiceFacts | None) -> bool:
    """Whether a node has self-service of another lab; one whose configuration is damaged does not say whose it is."""
    return found is not None and found.lab not in {"", lab}


def pool_source(lab: str, facts: NodeFacts, offered: tuple[str, ...]) -> PoolSource:
    """Return what the pool of a node is chosen from; the pool of another lab does not count."""
    found = facts.self_service
    if found is None or is_of_another_lab(lab, found):
        return PoolSource(facts.name, offered)
    leased = frozenset(gpu for lease in found.leases for gpu in lease.gpus)
    return PoolSource(facts.name, offered, found.pool, leased)


def keep_pool(wanted: PoolSetting, source: PoolSource, owned: Collection[str]) -> tuple[str, ...]:
    """Return the GPUs that are in the pool before anybody is placed. `owned`: those of people with own GPUs so far.

    A number keeps what the node reports, first the leased GPUs. Without a setting, people are placed first.
    """
    if wanted is None:
        return ()
    if isinstance(wanted, tuple):
        return tuple(gpu for gpu in source.offered if gpu in wanted and gpu not in owned)
    kept = [gpu for gpu in source.offered if gpu in source.reported and gpu not in owned]
    chosen = sorted(kept, key=lambda gpu: gpu not in source.leased)[:wanted]
    return tuple(gpu for gpu in source.offered if gpu in chosen)


def choose_pool(
    wanted: PoolSetting, source: PoolSource, owned: Collection[str], *, has_sharers: bool = False
) -> tuple[str, ...]:
    """Return the pool, in NVML's order. `owned`: the GPUs that people have alone.

    A number takes further GPUs from the end. Where people share GPUs, one stays for them.
    """
    kept = keep_pool(wanted, source, owned)
    free = [gpu for gpu in source.offered if gpu not in owned and gpu not in kept]
    if wanted is None:
        return tuple(free)
    if isinstance(wanted, tuple):
        return kept
    missing = min(wanted - len(kept), len(free) - has_sharers)
    added = free[-missing:] if missing > 0 else []
    return tuple(gpu for gpu in source.offered if gpu in kept or gpu in added)


def pool_cautions(
    wanted: PoolSetting, source: PoolSource, pool: Sequence[str], facts: NodeFacts
) -> tuple[Problem, ...]:
    """Return that a node has fewer GPUs in its pool than lab.yml asks for."""
    if isinstance(wanted, int) and len(pool) < wanted:
        asked = f"self_service.gpus asks for {wanted} GPUs of each node"
        return (_pool_smaller(source.node, f"{asked}; {len(pool)} of {len(source.offered)} are free"),)
    if isinstance(wanted, tuple):
        present = {gpu.uuid for gpu in facts.gpus}
        left = [gpu for gpu in wanted if gpu in present and gpu not in pool]
        if left:
            what = (
                f"{', '.join(left)} of self_service.gpus cannot be leased: another person has it alone, or it is split"
            )
            return (_pool_smaller(source.node, f"{what} into MIG devices or has a fault"),)
    return ()


def _pool_smaller(node: str, what: str) -> Problem:
    return Problem(
        "pool_smaller",
        f"{node}: {what}",
        "people who start a seat themselves wait longer for a GPU",
        "lower self_service.gpus in lab.yml, or gpus in rows of the roster",
        node,
    )
