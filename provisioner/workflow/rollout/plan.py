"""Build a plan from lock and facts: the image, seat and files of each node, and how they differ from what runs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.toolkit import toolkit_problems
from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import LockedImage, Lockfile
from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.rollout.plan import Plan, Step, build_step, is_in_force, skipped, with_problems
from provisioner.domain.seat.render import render
from provisioner.domain.seat.seat import Seat, SeatBundle, seat_of, with_current_capacity
from provisioner.domain.selection.selection import NodeChoice, Selection, select
from provisioner.domain.values.node import NodeFacts, profile
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Host, Probed


class PlanInputs(NamedTuple):
    """What the seats of a lab are made from. `keys`: public SSH keys; `home` replaces the home that lab.yml names."""

    lab: Lab
    lock: Lockfile
    data: CompatibilityData
    templates: Mapping[str, str]
    keys: tuple[str, ...]
    home: str | None = None


class PreparedPlan(NamedTuple):
    """A plan and its rendered seats by node. Applying it makes no further decision."""

    plan: Plan
    bundles: Mapping[str, SeatBundle]


def build_plan(
    inputs: PlanInputs, hosts: Sequence[Host], probed: Probed, *, when_busy: WhenBusy = DEFER
) -> PreparedPlan:
    """Build the plan: every host once, in the order of the inventory, with a step or the reason why it is skipped."""
    replay = _select_locked(inputs, probed)
    bundles: dict[str, SeatBundle] = {}
    steps: list[Step] = []
    for host in hosts:
        facts = probed[host.name]
        bundle = (facts,) if isinstance(facts, Problem) else _render_seat(inputs, host, facts, replay)
        if isinstance(facts, NodeFacts) and isinstance(bundle, SeatBundle):
            bundles[host.name] = bundle
            steps.append(
                with_problems(
                    build_step(bundle, facts, when_busy), _remarks(facts, replay.nodes[host.name], inputs.data)
                )
            )
        elif not isinstance(bundle, SeatBundle):
            steps.append(skipped(host.name, bundle))
    references = sorted({bundle.image.reference for bundle in bundles.values()})
    image = ", ".join(references) or None
    return PreparedPlan(Plan(lab=inputs.lab.name, image=image, steps=tuple(steps), when_busy=when_busy), bundles)


def unserved_problems(node: str, choice: NodeChoice) -> tuple[Problem, ...]:
    """Return why no locked image runs on a node."""
    return tuple(problem for verdict in choice.verdicts.values() for problem in verdict.problems) or (
        Problem(
            "no_image",
            f"no locked image serves {node}",
            "the lock was made without this node's GPUs and driver",
            "make the lock again: provision lock",
            node,
        ),
    )


def _remarks(facts: NodeFacts, choice: NodeChoice, data: CompatibilityData) -> tuple[Problem, ...]:
    """Return the problems of a node that gets a seat all the same, such as a lost GPU or one without an image."""
    return (
        *facts.problems,
        *facts.gpu_problems,
        *(problem for gpu in choice.left_out for problem in gpu.problems),
        *toolkit_problems(facts, data),
    )


def _select_locked(inputs: PlanInputs, probed: Probed) -> Selection:
    """Select again among the locked images alone. Law of replay: each node gets what the lock was made with."""
    profiles = [profile(facts) for facts in probed.values() if isinstance(facts, NodeFacts)]
    return select(profiles, inputs.lock.tagged(), inputs.data, flavour=inputs.lab.image.flavour)


def _render_seat(
    inputs: PlanInputs, host: Host, facts: NodeFacts, replay: Selection
) -> SeatBundle | tuple[Problem, ...]:
    """Render the seat of a node, or return why it cannot have one."""
    if problems := _blocking_problems(facts):
        return problems
    choice = replay.nodes[host.name]
    image = inputs.lock.image(choice.tag) if choice.tag else None
    if image is None or host.name in inputs.lock.unserved:
        return unserved_problems(host.name, choice)
    gpus = tuple(_usable_gpus(facts)[index] for index in choice.gpus)
    seat = seat_of(inputs.lab, facts, gpus, inputs.keys, host=host.address, home=inputs.home)
    return _render_unless_in_force(inputs, facts, seat, image) if isinstance(seat, Seat) else (seat,)


def _render_unless_in_force(inputs: PlanInputs, facts: NodeFacts, seat: Seat, image: LockedImage) -> SeatBundle:
    """Render a seat. A new generation gets limits from what the node has now; else those in force stay."""
    bundle = render(seat, image, inputs.templates)
    current = with_current_capacity(seat, inputs.lab, facts)
    if current == seat or is_in_force(bundle, facts.seat(seat.name)):
        return bundle
    return render(current, image, inputs.templates)


def _usable_gpus(facts: NodeFacts) -> tuple[str, ...]:
    """Return the UUIDs of the GPUs that a seat can use."""
    return tuple(gpu.uuid for gpu in facts.offered_gpus if gpu.uuid is not None)


def _blocking_problems(facts: NodeFacts) -> tuple[Problem, ...]:
    """Return what keeps a node from any seat, whatever the image."""
    found = list(facts.problems)
    if facts.engine is None:
        found.append(
            _absent(facts, "engine", "no_engine", "install Docker Engine and the compose plugin, and start it")
        )
    elif facts.engine.compose_version is None:
        found.append(_absent(facts, "compose", "no_compose", "install the package docker-compose-plugin"))
    gpus = _usable_gpus(facts)
    if not gpus:
        found += facts.gpu_problems or [
            _absent(facts, "gpus", "no_gpu", "see `provision probe` for what the node reports")
        ]
    blocking = {"no_engine", "no_compose", "no_gpu", "needs_attention"}
    return tuple([p for p in found if p.code in blocking] or ([] if gpus else found))


def _absent(facts: NodeFacts, fact: str, code: str, fix: str) -> Problem:
    reason = facts.absent_because.get(fact) or facts.absent_because.get("driver") or "the probe gave no reason"
    why = "a seat runs in containers on the node's GPUs"
    return Problem(code, f"{facts.name}: {reason}", why, fix, facts.name)
