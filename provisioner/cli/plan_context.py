"""What plan, rollout, status, letters and seats share: read the lab's lock, probe its nodes, and plan what differs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from provisioner.adapters.ansible.inventory import InventoryHost
from provisioner.adapters.lab.directory import LabDirectory
from provisioner.adapters.lab.lockfile import read_lock
from provisioner.cli.options import AnsibleOptions
from provisioner.cli.output import Output
from provisioner.cli.progress_display import show_progress
from provisioner.cli.wiring import fleet, plan_inputs
from provisioner.console.problems import problems
from provisioner.domain.lab.environments import DEFAULT_ENVIRONMENT
from provisioner.domain.lab.lock import Lockfile, Placement
from provisioner.domain.people.person import Person
from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.rollout.status import LabStatus
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.lock.lock import Choices
from provisioner.workflow.probe import probe
from provisioner.workflow.protocols import Fleet, Probed
from provisioner.workflow.rollout.plan import PlanInputs, PreparedPlan, build_plan
from provisioner.workflow.status import build_status


class PlanContext(NamedTuple):
    """A plan and the facts that it was made from."""

    probed: Probed
    prepared: PreparedPlan


class SeatsContext(NamedTuple):
    """The seats of a lab. `people`: those of the roster who are expected on these nodes; `hosts`: the nodes.

    `places`: of all people, as the lock remembers them.
    """

    status: LabStatus
    people: tuple[Person, ...]
    probed: Probed
    hosts: Sequence[InventoryHost]
    places: Mapping[str, Placement]


def note_cautions(directory: LabDirectory, output: Output) -> None:
    """Show what may be wrong in the roster, which is read all the same, and which limits do not hold."""
    if directory.cautions:
        output.note(problems([("", caution) for caution in directory.cautions], "yellow"))


def require_lock(directory: LabDirectory) -> Lockfile:
    """Read lab.lock. Raises ProblemError (usage) where the lab has none yet."""
    lock = read_lock(directory.lock)
    if lock is None:
        problem = Problem(
            "no_lock",
            f"{directory.lock}: the lab has no lock yet",
            "a plan is the difference between what runs and what the lock requires",
            f"provision lock {directory.path}",
        )
        raise ProblemError(problem, "usage")
    return lock


def build_context(inputs: PlanInputs, fleet: Fleet, on_event: OnEvent, when_busy: WhenBusy = DEFER) -> PlanContext:
    """Probe the nodes and plan for them."""
    probed = probe(fleet, on_event)
    return PlanContext(probed, build_plan(inputs, fleet.hosts(), probed, when_busy=when_busy))


def read_seats(directory: LabDirectory, ansible: AnsibleOptions, output: Output) -> SeatsContext:
    """Probe the nodes and return their seats. With --limit, only people with a seat on these nodes are expected.

    Raises ProblemError (usage) where the lab has no lock yet.
    """
    lock = require_lock(directory)
    with show_progress(output) as on_event:
        nodes = fleet(directory, ansible, output.verbose, on_event)
        context = build_context(plan_inputs(directory, lock, ansible.limit), nodes, on_event)
    status = build_status(context.prepared, context.probed)
    stopped = {name for name, held in lock.people.items() if held.stopped and held.node in context.probed}
    seated = {seat.person for seat in status.seats} | stopped
    people = tuple(person for person in directory.people if ansible.limit is None or person.id in seated)
    return SeatsContext(status, people, context.probed, nodes.hosts(), lock.people)


def choices_fields(choices: Choices) -> dict[str, Any]:
    """Return what a JSON document has about the mirror: its address, its problems, the next better tag of `default`."""
    better = choices[DEFAULT_ENVIRONMENT].catalog.next_best
    found = dict.fromkeys(problem for choice in choices.values() for problem in choice.catalog.problems)
    return {
        "mirror": choices[DEFAULT_ENVIRONMENT].catalog.mirror,
        "problems": [problem.model_dump() for problem in found],
        "next_best": None if better is None else better.model_dump(mode="json"),
    }
