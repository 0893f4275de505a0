"""Lock and facts in, plan out: which image each node gets, its seat, its files, and the difference to what runs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.rollout.plan import Plan, Step, remarked, skipped, step_for
from provisioner.domain.seat.render import render
from provisioner.domain.seat.seat import Seat, SeatBundle, seat_of
from provisioner.domain.selection.selection import NodeChoice, Selection, select
from provisioner.domain.values.node import NodeFacts, profile
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Host, Probed


class PlanInputs(NamedTuple):
    """What every seat of a lab is made from. `keys` are public SSH keys; `home` overrides the lab's for one's own."""

    lab: Lab
    lock: Lockfile
    data: CompatibilityData
    templates: Mapping[str, str]
    keys: tuple[str, ...]
    home: str | None = None


class PreparedPlan(NamedTuple):
    """A plan and the rendered seats it speaks of, by node. Applying decides nothing again."""

    plan: Plan
    bundles: Mapping[str, SeatBundle]


def prepare(
    materials: PlanInputs, hosts: Sequence[Host], probed: Probed, *, when_busy: WhenBusy = DEFER
) -> PreparedPlan:
    """Every host ends in the plan once, in the inventory's order: with a step, or skipped for a reason."""
    replay = _replay(materials, probed)
    bundles: dict[str, SeatBundle] = {}
    steps: list[Step] = []
    for host in hosts:
        bundle = _bundle(materials, host, probed[host.name], replay)
        if isinstance(bundle, SeatBundle):
            facts = _facts(probed[host.name])
            bundles[host.name] = bundle
            steps.append(remarked(step_for(bundle, facts, when_busy), _remarks(facts, replay.nodes[host.name])))
        else:
            steps.append(skipped(host.name, bundle))
    references = sorted({bundle.image.reference for bundle in bundles.values()})
    image = ", ".join(references) or None
    return PreparedPlan(Plan(lab=materials.lab.name, image=image, steps=tuple(steps), when_busy=when_busy), bundles)


def _remarks(facts: NodeFacts, choice: NodeChoice) -> tuple[Problem, ...]:
    """What is wrong with a node that is served all the same: a card that is lost, or one that no image runs on."""
    return (
        *facts.problems,
        *(problem for gpu in facts.gpus for problem in gpu.problems),
        *(problem for card in choice.left_out for problem in card.problems),
    )


def _replay(materials: PlanInputs, probed: Probed) -> Selection:
    """The choice made again among the locked images alone; the law is that it comes out as it did."""
    profiles = [profile(facts) for facts in probed.values() if isinstance(facts, NodeFacts)]
    return select(profiles, materials.lock.tagged(), materials.data, flavour=materials.lab.image.flavour)


def _bundle(
    materials: PlanInputs, host: Host, facts: NodeFacts | Problem, replay: Selection
) -> SeatBundle | tuple[Problem, ...]:
    if isinstance(facts, Problem):
        return (facts,)
    gate = _hindrance(facts)
    if gate:
        return gate
    choice = replay.nodes[host.name]
    image = materials.lock.image(choice.tag) if choice.tag else None
    if image is None or host.name in materials.lock.unserved:
        return unserved(host.name, choice)
    gpus = tuple(_uuids(facts)[index] for index in choice.gpus)
    seat = seat_of(materials.lab, facts, gpus, materials.keys, host=host.address, home=materials.home)
    return render(seat, image, materials.templates) if isinstance(seat, Seat) else (seat,)


def _uuids(facts: NodeFacts) -> tuple[str, ...]:
    return tuple(gpu.uuid for gpu in facts.gpus if gpu.usable and gpu.uuid is not None)


def _hindrance(facts: NodeFacts) -> tuple[Problem, ...]:
    """What keeps a node from any seat at all, whatever the image."""
    found = list(facts.problems)
    if facts.engine is None:
        found.append(
            _absent(facts, "engine", "no_engine", "install Docker Engine and the compose plugin, and start it")
        )
    elif facts.engine.compose_version is None:
        found.append(_absent(facts, "compose", "no_compose", "install the package docker-compose-plugin"))
    if not _uuids(facts):
        found += [problem for gpu in facts.gpus for problem in gpu.problems] or [
            _absent(facts, "gpus", "no_gpu", "see `provision probe` for what the node reports")
        ]
    blocking = {"no_engine", "no_compose", "no_gpu", "needs_attention"}
    fatal = [p for p in found if p.code in blocking] or ([] if _uuids(facts) else found)
    return tuple(fatal)


def _absent(facts: NodeFacts, fact: str, code: str, fix: str) -> Problem:
    reason = facts.absent_because.get(fact) or facts.absent_because.get("driver") or "the probe did not say"
    return Problem(code, f"{facts.name}: {reason}", "a seat runs in containers on the node's GPUs", fix)


def unserved(node: str, choice: NodeChoice) -> tuple[Problem, ...]:
    return tuple(problem for verdict in choice.verdicts.values() for problem in verdict.problems) or (
        Problem(
            "no_image",
            f"no locked image serves {node}",
            "the lock was made without this node's GPUs and driver",
            "make the lock again: provision lock",
        ),
    )


def _facts(value: NodeFacts | Problem) -> NodeFacts:
    if isinstance(value, Problem):
        raise TypeError("a node without facts has no bundle")
    return value
