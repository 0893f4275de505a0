"""Build a plan from lock and facts: the image, seat and files of each node, and how they differ from what runs."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import NamedTuple

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.toolkit import toolkit_problems
from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import LockedEnvironment, LockedImage, Lockfile
from provisioner.domain.people.person import Person
from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.rollout.plan import (
    Plan,
    Step,
    build_step,
    differs_in_assignment,
    is_in_force,
    skipped,
    with_problems,
    with_remarks,
)
from provisioner.domain.seat.document import SeatBundle
from provisioner.domain.seat.freed import without_freed_pairs
from provisioner.domain.seat.seat import Seat, lab_owner, seat_of, with_current_node
from provisioner.domain.seat.slotted import Documents
from provisioner.domain.selection.selection import NodeChoice, Selection, select
from provisioner.domain.self_service.config import Published
from provisioner.domain.self_service.publication import pattern_cautions
from provisioner.domain.values.node import NodeFacts, RunningSeat, profile
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Host, Probed
from provisioner.workflow.rollout.cards import (
    PlannedSeat,
    defer_for_cards,
    held_by_leaving,
    held_by_unchanged,
    pool_in_force,
)
from provisioner.workflow.rollout.people import Seating, SeatRequest, seat_nodes, seat_people, stop_step
from provisioner.workflow.rollout.publications import Program, PublishInputs, plan_publications
from provisioner.workflow.rollout.served import ServedEnvironment, ServedNode


class PlanInputs(NamedTuple):
    """What the seats of a lab are made from. `documents` come from its templates.

    `keys`: public SSH keys; `home` replaces the home that lab.yml names.
    `people`: the rows of the roster, where lab.yml names one. `today`: the date in the lab, for their last days.
    `limited`: not all nodes of the lab are planned for. `program`: this release, for self-service.
    """

    lab: Lab
    lock: Lockfile
    data: CompatibilityData
    documents: Documents
    keys: tuple[str, ...]
    home: str | None = None
    people: tuple[Person, ...] = ()
    today: date = date.min
    limited: bool = False
    program: Program = Program()


class PreparedPlan(NamedTuple):
    """A plan and its rendered seats, by node and by name. Applying it makes no further decision.

    `disk_limits`: bytes, None for no limit, of the seats of people that are planned for. `published`: what each node
    with self-service gets.
    """

    plan: Plan
    bundles: Mapping[str, Mapping[str, SeatBundle]]
    disk_limits: Mapping[str, Mapping[str, int | None]] = {}
    published: Mapping[str, Published] = {}

    def bundle(self, step: Step) -> SeatBundle | None:
        """Return the rendered seat of a step, None where the step has none."""
        return self.bundles.get(step.node, {}).get(step.seat or "")


def build_plan(
    inputs: PlanInputs, hosts: Sequence[Host], probed: Probed, *, when_busy: WhenBusy = DEFER
) -> PreparedPlan:
    """Build the plan: every host in the order of the inventory, with its steps or the reason why it is skipped."""
    found = serve_nodes(inputs, hosts, probed)
    served = {name: node if isinstance(node, ServedNode) else None for name, node in found.items()}
    seating = _seating(inputs, served)
    pools = dict(seating.pools)
    steps: list[Step] = []
    bundles: dict[str, dict[str, SeatBundle]] = {}
    for name, node in found.items():
        if not isinstance(node, ServedNode):
            steps.append(skipped(name, node))
            continue
        planned = list(_plan_node(inputs, node, seating, when_busy))
        if name in pools:
            held = held_by_unchanged(planned, node.facts, inputs.lab.name)
            pools[name] = tuple(card for card in pools[name] if card not in held)
        steps += _with_remarks([seat.step for seat in planned], node.remarks + seating.remarks.get(name, ()))
        if rendered := {seat.bundle.seat.name: seat.bundle for seat in planned if seat.bundle}:
            bundles[name] = rendered
    publishing = PublishInputs(inputs.lab, inputs.lock, inputs.documents, inputs.program, when_busy)
    nodes = [node for node in served.values() if node is not None]
    publications, published = plan_publications(publishing, nodes, pools)
    of_seats = {bundle.image.reference for seats in bundles.values() for bundle in seats.values()}
    references = sorted({*of_seats, *(image.tag for found in published.values() for image in found.config.images)})
    plan = Plan(
        lab=inputs.lab.name,
        image=", ".join(references) or None,
        steps=tuple(steps),
        when_busy=when_busy,
        places=seating.places,
        unplaced=seating.unplaced,
        publications=publications,
        cautions=_cautions(inputs, hosts),
    )
    disk_limits = {name: _disk_limits(requests) for name, requests in seating.requests.items()}
    return PreparedPlan(plan, bundles, disk_limits, published)


def _cautions(inputs: PlanInputs, hosts: Sequence[Host]) -> tuple[Problem, ...]:
    """Return what may be a mistake in lab.yml. With a limit the other nodes of the inventory are not known."""
    settings = inputs.lab.self_service
    if settings is None or inputs.limited:
        return ()
    return pattern_cautions(settings.nodes, (settings.covers(host.name) for host in hosts))


def _disk_limits(requests: Sequence[SeatRequest | Step]) -> dict[str, int | None]:
    owners = [request.owner for request in requests if isinstance(request, SeatRequest)]
    return {owner.name: owner.disk_limit for owner in owners if owner.person}


def changed_disk_limits(prepared: PreparedPlan, probed: Probed) -> dict[str, dict[str, int | None]]:
    """Return by node and seat the limits of the disk that the nodes do not have yet."""
    found = {
        node: dict(_changed_limits(limits, facts))
        for node, limits in prepared.disk_limits.items()
        if isinstance(facts := probed[node], NodeFacts)
    }
    return {node: limits for node, limits in found.items() if limits}


def _changed_limits(limits: Mapping[str, int | None], facts: NodeFacts) -> Iterator[tuple[str, int | None]]:
    for name, limit in limits.items():
        running = facts.seat(name)
        if limit != (running.disk_limit if running else None):
            yield name, limit


def serve_nodes(
    inputs: PlanInputs, hosts: Sequence[Host], probed: Probed
) -> dict[str, ServedNode | tuple[Problem, ...]]:
    """Return by node what the seats of each host are made from, or why it cannot have one. `probed`: all nodes."""
    present = {person.id for person in inputs.people}
    replays = {name: _select_locked(inputs, name, probed) for name in inputs.lock.all_environments}

    def facts_of(node: str) -> NodeFacts | Problem:
        facts = probed[node]
        return facts if isinstance(facts, Problem) else without_freed_pairs(facts, inputs.lab, present, inputs.today)

    return {host.name: _serve(inputs, host, facts_of(host.name), replays) for host in hosts}


def _seating(inputs: PlanInputs, served: Mapping[str, ServedNode | None]) -> Seating:
    """Return who has a seat where: the people of the roster, or without one the user of lab.yml on each node."""
    lab = inputs.lab
    if lab.people is not None:
        before = inputs.lock.people
        return seat_people(lab, inputs.people, served, before, inputs.today, limited=inputs.limited)
    requests, ended, pools = seat_nodes(lab, served, lambda facts: lab_owner(lab, facts, inputs.keys, inputs.home))
    return Seating(requests, ended, dict(inputs.lock.people), {}, {}, pools)


def _plan_node(inputs: PlanInputs, node: ServedNode, seating: Seating, when_busy: WhenBusy) -> list[PlannedSeat]:
    """Return the steps of a node: first of the seats that are stopped, as others may take their ports and cards."""
    name, facts = node.host.name, node.facts
    ended = seating.ended.get(name, {})
    stops = [stop_step(facts, seat, why, when_busy) for seat, why in ended.items()]
    planned = [PlannedSeat(step) for step in stops]
    held = held_by_leaving(stops, facts) | pool_in_force(inputs.lab.name, facts)
    for request in seating.requests.get(name, []):
        if isinstance(request, Step):
            planned.append(PlannedSeat(request))
            continue
        free = request.without_shared(held)
        planned.append(_plan_seat(inputs, node._replace(facts=facts), free, when_busy))
        facts = _with_seat(facts, planned[-1].bundle)
    return defer_for_cards(planned, node.facts, inputs.lab.name)


def _plan_seat(inputs: PlanInputs, node: ServedNode, request: SeatRequest, when_busy: WhenBusy) -> PlannedSeat:
    owner, facts = request.owner, node.facts
    gpus = request.gpus_beside(facts.seat(owner.name))
    seat = seat_of(inputs.lab, facts, owner, gpus, host=node.host.address, shared=request.shared)
    if isinstance(seat, Problem):
        return PlannedSeat(skipped(facts.name, (seat,), owner.name if owner.person else None, owner.person))
    image = node.environments[owner.environment].image
    bundle = _bundle_unless_in_force(inputs, facts, request, seat, image)
    cautions = (*request.cautions, *_changed_ports(seat, facts))
    return PlannedSeat(with_problems(build_step(bundle, facts, when_busy), cautions), bundle)


def _changed_ports(seat: Seat, facts: NodeFacts) -> Iterator[Problem]:
    """Yield a Problem where the seat of a person who returns gets other ports than before."""
    held = facts.seat(seat.name)
    if held and held.is_down and held.ports != seat.ports:
        before, now = _port_text(held.ports.items()), _port_text(seat.ports.items())
        yield Problem(
            "ports_changed",
            f"{seat.node}: {seat.name} had the ports {before}, and gets {now}: another seat has got one of them since",
            "what its person has saved names the old ports: an SSH configuration, bookmarks",
            "send them their letter again: provision letters",
            seat.node,
        )


def _port_text(ports: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{port} ({service})" for service, port in sorted(ports, reverse=True))


def _with_seat(facts: NodeFacts, bundle: SeatBundle | None) -> NodeFacts:
    """Return the facts with the ports and the subnet of a planned seat taken."""
    if bundle is None:
        return facts
    seat = bundle.seat
    found = facts.seat(seat.name) or RunningSeat(name=seat.name, generation=0, image="")
    taken = found.model_copy(update={"ports": dict(seat.ports), "subnet": seat.subnet})
    if taken == found:
        return facts
    others = (other for other in facts.seats if other.name != seat.name)
    return facts.model_copy(update={"seats": (*others, taken)})


def _with_remarks(steps: Sequence[Step], remarks: tuple[Problem, ...]) -> list[Step]:
    """Return the steps of a node, the first of them with what is remarkable about the node."""
    return [with_remarks(steps[0], remarks), *steps[1:]] if steps else []


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


def _remarks(
    facts: NodeFacts, choices: Sequence[NodeChoice], served: Collection[str], data: CompatibilityData
) -> tuple[Problem, ...]:
    """Return the problems of a node that gets a seat all the same, such as a lost GPU or one without an image.

    `served`: the GPUs (UUIDs) that an environment runs on.
    """
    gpus = _usable_gpus(facts)
    left_out = (gpu for choice in choices for gpu in choice.left_out if gpus[gpu.gpu] not in served)
    return (
        *facts.problems,
        *facts.gpu_problems,
        *dict.fromkeys(problem for gpu in left_out for problem in gpu.problems),
        *dict.fromkeys(caution for choice in choices for caution in choice.cautions),
        *toolkit_problems(facts, data),
    )


def _select_locked(inputs: PlanInputs, environment: str, probed: Probed) -> Selection:
    """Select again among the locked images alone. Law of replay: each node gets what the lock was made with.

    The lock of an environment that is no longer in lab.yml has only images of its flavour.
    """
    profiles = [profile(facts) for facts in probed.values() if isinstance(facts, NodeFacts)]
    images = inputs.lock.all_environments[environment].tagged()
    settings = inputs.lab.all_environments.get(environment)
    return select(profiles, images, inputs.data, flavour=settings.flavour if settings else "runtime")


def _serve(
    inputs: PlanInputs, host: Host, facts: NodeFacts | Problem, replays: Mapping[str, Selection]
) -> ServedNode | tuple[Problem, ...]:
    """Return what the seats of a node are made from, or why it cannot have one."""
    if isinstance(facts, Problem):
        return (facts,)
    if problems := _blocking_problems(facts):
        return problems
    locked = inputs.lock.all_environments
    found = {name: _serve_environment(locked[name], facts, replay) for name, replay in replays.items()}
    served = {name: one for name, one in found.items() if isinstance(one, ServedEnvironment)}
    unserved = {name: one for name, one in found.items() if not isinstance(one, ServedEnvironment)}
    if not served:
        return next(iter(unserved.values()))
    choices = [replays[name].nodes[host.name] for name in served]
    gpus = {gpu for environment in served.values() for gpu in environment.gpus}
    return ServedNode(host, facts, served, unserved, _remarks(facts, choices, gpus, inputs.data))


def _serve_environment(
    locked: LockedEnvironment, facts: NodeFacts, replay: Selection
) -> ServedEnvironment | tuple[Problem, ...]:
    """Return what an environment has on a node, or why it has no image there."""
    choice = replay.nodes[facts.name]
    image = locked.image(choice.tag) if choice.tag else None
    if image is None or facts.name in locked.unserved:
        return unserved_problems(facts.name, choice)
    return ServedEnvironment(image, tuple(_usable_gpus(facts)[index] for index in choice.gpus))


def _bundle_unless_in_force(
    inputs: PlanInputs, facts: NodeFacts, request: SeatRequest, seat: Seat, image: LockedImage
) -> SeatBundle:
    """Return a seat with its files. A new generation gets limits and cards from what the node has now.

    Else those in force stay.
    """
    bundle = inputs.documents.bundle(seat, image)
    current = with_current_node(seat, request.owner.limits, request.gpus, facts)
    running = facts.seat(seat.name)
    if current == seat or is_in_force(bundle, running) or differs_in_assignment(bundle, running):
        return bundle
    return inputs.documents.bundle(current, image)


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
