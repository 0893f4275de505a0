"""A lab with a roster in memory: plans for it, and its nodes after a plan was carried out."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from provisioner.adapters.lab.compatibility_data import load
from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import Lockfile, Placement
from provisioner.domain.people.person import Person
from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.rollout.plan import Plan, Step
from provisioner.domain.seat.document import SeatBundle
from provisioner.domain.seat.seat import Seat
from provisioner.domain.values.node import Account, NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from provisioner.workflow.rollout.plan import PlanInputs, PreparedPlan, build_plan
from tests.builders import a_gpu, a_lab, a_lock, a_node
from tests.domain.seats import DOCUMENTS

DATA = load()
TODAY = date(2026, 11, 30)
HEALTHY = {"jupyter": "healthy", "ssh": "healthy"}
MISSING = dict.fromkeys(HEALTHY, "missing")
ANN = 5001  # the only one with an account
Probed = Mapping[str, NodeFacts | Problem]


class FakeHost(NamedTuple):
    name: str
    address: str | None = None


def roster_lab(**over: Any) -> Lab:
    groups = {"student": {"memory": "1g", "cpus": 1, "shm": "64m"}, "staff": {"gpus": 1, "memory": "2g"}}
    return a_lab(**({"people": {"roster": "roster.csv"}, "groups": groups} | over))


LAB = roster_lab()


def person(name: str, **over: Any) -> Person:
    return Person.model_validate({"id": name, "uid": None if name == "ann" else 70000 + hash_of(name)} | over)


def hash_of(name: str) -> int:
    return int.from_bytes(name.encode()[-2:], "big") % 29999


def nodes(cards: Mapping[str, int], accounts: Mapping[str, Account]) -> dict[str, NodeFacts]:
    return {
        name: a_node(name, gpus=tuple(a_gpu(name, index) for index in range(number)), accounts=accounts)
        for name, number in cards.items()
    }


def accounts_of(people: Sequence[Person]) -> dict[str, Account]:
    """Return what each node answers: ann has an account, everybody else has none."""
    return {one.id: Account() for one in people} | {"ann": Account(uid=ANN, gid=ANN, home="/home/ann")}


def plan_people(  # noqa: PLR0913  (what a plan is made from)
    people: Sequence[Person],
    probed: Probed,
    places: Mapping[str, Placement] | None = None,
    *,
    lab: Lab = LAB,
    when_busy: WhenBusy = DEFER,
    only: Collection[str] = (),
    lock: Lockfile | None = None,
) -> PreparedPlan:
    """Build the plan of a lab. `only`: the nodes of --limit; empty: all of them."""
    lock = (lock or a_lock()).model_copy(update={"people": dict(places or {})})
    shown = {name: facts for name, facts in probed.items() if not only or name in only}
    inputs = PlanInputs(lab, lock, DATA, DOCUMENTS, (), people=tuple(people), today=TODAY, limited=bool(only))
    return build_plan(inputs, [FakeHost(name) for name in shown], shown, when_busy=when_busy)


def after_rollout(prepared: PreparedPlan, probed: Probed) -> dict[str, NodeFacts | Problem]:
    """Return the nodes after all pending steps were carried out."""
    return {name: facts if isinstance(facts, Problem) else _after(prepared, facts) for name, facts in probed.items()}


def _after(prepared: PreparedPlan, facts: NodeFacts) -> NodeFacts:
    seats = {seat.name: seat for seat in facts.seats}
    for step in prepared.plan.pending:
        if step.node == facts.name and step.seat:
            seats[step.seat] = _changed(prepared, step, seats.get(step.seat))
    return facts.model_copy(update={"seats": tuple(seats.values())})


def _changed(prepared: PreparedPlan, step: Step, seat: RunningSeat | None) -> RunningSeat:
    if step.action == "stop":
        assert seat is not None
        return seat.model_copy(update={"services": MISSING})
    bundle = prepared.bundle(step)
    assert bundle is not None
    return running_seat(bundle, generation=step.generation + step.starts)


def running_seat(bundle: SeatBundle, **over: Any) -> RunningSeat:
    """Return a seat as its node reports it after a rollout."""
    seat = bundle.seat
    fields = {
        "name": seat.name,
        "lab": seat.lab,
        "generation": 1,
        "image": bundle.image.lab,
        "files": bundle.files,
        "ports": dict(seat.ports),
        "subnet": seat.subnet,
        "gpus": seat.gpus,
        "shared": seat.shared,
        "person": seat.person,
        "uid": seat.uid,
        "home": seat.home,
        "limits": seat.limits,
        "capacity": seat.capacity,
        "services": HEALTHY,
        "layer_bytes": 0,
    }
    return RunningSeat.model_validate(fields | over)


def with_seat(facts: NodeFacts | Problem, name: str, **changes: Any) -> NodeFacts:
    """Return the facts with changes of one seat."""
    assert isinstance(facts, NodeFacts)
    assert facts.seat(name) is not None
    seats = tuple(seat.model_copy(update=changes) if seat.name == name else seat for seat in facts.seats)
    return facts.model_copy(update={"seats": seats})


def actions(plan: Plan) -> dict[str, str]:
    """Person (or seat, or node) -> action."""
    return {step.person or step.seat or step.node: step.action for step in plan.steps}


def changed(plan: Plan) -> dict[str, str]:
    return {name: action for name, action in actions(plan).items() if action != "keep"}


def codes(plan: Plan) -> dict[str, list[str]]:
    """Person, seat or node -> codes of the problems of its step."""
    return {
        step.person or step.seat or step.node: [problem.code for problem in step.problems]
        for step in plan.steps
        if step.problems
    }


def seats_of(prepared: PreparedPlan) -> Iterator[tuple[str, Seat]]:
    for node, bundles in prepared.bundles.items():
        yield from ((node, bundle.seat) for bundle in bundles.values())
