"""Plan the seats of one person of the roster alone: on the node of their place, and where else they have one."""

from collections.abc import Iterator, Sequence
from datetime import date

from provisioner.domain.lab.lock import Placement
from provisioner.domain.people.person import Person
from provisioner.domain.people.placement import Placements, move
from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.rollout.plan import Plan, Step, with_problems
from provisioner.domain.seat.seat import person_seat_name_on
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.spelling import did_you_mean
from provisioner.workflow.protocols import Host, Probed
from provisioner.workflow.rollout.plan import PlanInputs, PreparedPlan, build_plan, serve_nodes
from provisioner.workflow.rollout.pools import gpus_beside_pool
from provisioner.workflow.rollout.served import ServedNode


def place_on(inputs: PlanInputs, hosts: Sequence[Host], probed: Probed, person: Person, node: str) -> Placements:
    """Give a person a place on a node. Raises ProblemError where they cannot have it: `usage` for a mistake."""
    host = next((host for host in hosts if host.name == node), None)
    if host is None:
        raise ProblemError(_no_such_node(node, hosts), "usage")
    served = serve_nodes(inputs, [host], probed)[node]
    if not isinstance(served, ServedNode):
        raise ProblemError(served)
    if refusal := served.refusal(person.environment, person.id):
        raise ProblemError(refusal)
    offer = served.offer(gpus_beside_pool(inputs.lab, served))
    found = move(inputs.people, [offer], inputs.lock.people, person, node)
    if isinstance(found, Problem):
        raise ProblemError(found, "usage" if found.code == "row_names_another_node" else "failed")
    return found


def build_person_plan(  # noqa: PLR0913  (the lab, the change, and what is known of the nodes)
    inputs: PlanInputs,
    placements: Placements,
    person: Person,
    hosts: Sequence[Host],
    probed: Probed,
    *,
    when_busy: WhenBusy = DEFER,
) -> PreparedPlan:
    """Plan what `placements` changes for one person, first on the node of their place. `inputs` has the places before.

    Where one of their seats is in use and is deferred, so are the others: they get no second seat meanwhile. Where
    their place is as before, only what an earlier run has left is done: a newer image is not.
    Raises ProblemError where their node cannot have the seat.
    """
    held = placements.places[person.id]
    lock = inputs.lock.model_copy(update={"people": placements.places})
    near = list(_near(inputs, person, held, hosts, probed))
    changed = inputs._replace(lock=lock, limited=True)
    prepared = build_plan(changed, near, probed, when_busy=when_busy)
    plan = _only_of(inputs.lab.name, person, prepared.plan, placements, probed)
    if not held.stopped:
        _refuse_without_seat(person, held, inputs.today, plan)
    steps = plan.steps
    if placements.places == inputs.lock.people:
        steps = tuple(_left_to_rollout(step) if step.node == held.node else step for step in steps)
    cautions = _cautions(person, held, placements, probed)
    steps = tuple(with_problems(step, cautions) if step.starts and step.node == held.node else step for step in steps)
    seats = {(step.node, step.seat) for step in steps}
    limits = {
        node: {seat: limit for seat, limit in found.items() if (node, seat) in seats}
        for node, found in prepared.disk_limits.items()
    }
    return PreparedPlan(plan.model_copy(update={"steps": tuple(_all_or_none(steps))}), prepared.bundles, limits)


def _only_of(lab: str, person: Person, plan: Plan, placements: Placements, probed: Probed) -> Plan:
    """Return the plan with the seats and the place of one person alone; the places of others are as they were."""
    steps = tuple(step for step in plan.steps if _is_of(lab, person, step, probed))
    unplaced = {name: problem for name, problem in plan.unplaced.items() if name == person.id}
    places = {**placements.places, person.id: plan.places[person.id]}
    return plan.model_copy(update={"steps": steps, "places": places, "unplaced": unplaced, "publications": ()})


def _near(inputs: PlanInputs, person: Person, held: Placement, hosts: Sequence[Host], probed: Probed) -> Iterator[Host]:
    """Yield the nodes that matter to a person, first that of their place: where they were, and have a seat."""
    before = inputs.lock.people.get(person.id)
    yield from (host for host in hosts if host.name == held.node)
    for host in hosts:
        facts = probed[host.name]
        is_left = before is not None and host.name == before.node
        has_seat = isinstance(facts, NodeFacts) and facts.seat(person_seat_name_on(facts, inputs.lab.name, person.id))
        if host.name != held.node and (is_left or has_seat):
            yield host


def _is_of(lab: str, person: Person, step: Step, probed: Probed) -> bool:
    """Whether a step is about a seat of this person, or about a whole node."""
    facts = probed[step.node]
    names = {person_seat_name_on(facts, lab, person.id)} if isinstance(facts, NodeFacts) else set()
    return step.seat is None or step.seat in names


def _refuse_without_seat(person: Person, held: Placement, today: date, plan: Plan) -> None:
    """Raise ProblemError where the person is to have a seat, and cannot have it now."""
    if person.until is not None and person.until < today:
        raise ProblemError(_last_day_over(person), "usage")
    here = (step for step in plan.steps if step.node == held.node and step.action == "skip")
    problems = [*(problem for step in here for problem in step.problems), *plan.unplaced.values()]
    if problems:
        raise ProblemError(problems)


def _left_to_rollout(step: Step) -> Step:
    """Return the step of a seat that is in its place already, without another image or other files."""
    if step.action not in {"update", "defer"}:
        return step
    return step.model_copy(update={"action": "keep", "why": f"left to `provision rollout`: {step.why}"})


def _cautions(person: Person, held: Placement, placements: Placements, probed: Probed) -> tuple[Problem, ...]:
    """Return what the admin has to know: of the move, and of other seats with the person's own cards."""
    facts, found = probed[held.node], placements.cautions.get(person.id)
    cautions = [] if found is None else [found]
    if isinstance(facts, NodeFacts):
        others = [seat for seat in facts.seats if seat.person != person.id and seat.runs]
        if names := [seat.person or seat.name for seat in others if {*seat.gpus} & {*held.gpus}]:
            cautions.append(_still_used(person, held, names))
    return tuple(cautions)


def _all_or_none(steps: Sequence[Step]) -> list[Step]:
    """Return the steps; where one is deferred, the others that change a seat are, too."""
    in_use = next((step.node for step in steps if step.action == "defer"), None)
    if in_use is None:
        return list(steps)
    deferred = {"action": "defer", "why": f"their seat on {in_use} is in use"}
    same = {"keep", "skip", "defer"}
    return [step if step.action in same else step.model_copy(update=deferred) for step in steps]


def _no_such_node(node: str, hosts: Sequence[Host]) -> Problem:
    return Problem(
        "no_such_node",
        f'no node of the inventory is called "{node}"{did_you_mean(node, [host.name for host in hosts])}',
        "a person is moved to a node by its name",
        "see `provision seats list` for the nodes and who sits there",
    )


def _last_day_over(person: Person) -> Problem:
    return Problem(
        "last_day_over",
        f"the last day of {person.id} was {person.until}",
        "after it a person has no seat",
        f"write a later day in the column until in row {person.row} of the roster",
    )


def _still_used(person: Person, held: Placement, names: Sequence[str]) -> Problem:
    return Problem(
        "gpu_still_used",
        f"{held.node}: other seats have GPUs of {person.id} until the next rollout: {', '.join(names)}",
        "they were set up before these GPUs were given to one person",
        "run `provision rollout` afterwards",
        held.node,
    )
