"""What plan, rollout and status share: read the lab's lock, probe its nodes, and plan what differs."""

from typing import Any, NamedTuple

from provisioner.adapters.lab.directory import LabDirectory
from provisioner.adapters.lab.lockfile import read_lock
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.registry.catalog import Catalog
from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.probe import probe
from provisioner.workflow.protocols import Fleet, Probed
from provisioner.workflow.rollout.plan import PlanInputs, PreparedPlan, build_plan


class PlanContext(NamedTuple):
    """A plan and the facts that it was made from."""

    probed: Probed
    prepared: PreparedPlan


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


def catalog_fields(catalog: Catalog) -> dict[str, Any]:
    """Return what a JSON document has about the mirror: its address, its problems, the next better tag."""
    better = catalog.next_best
    return {
        "mirror": catalog.mirror,
        "problems": [problem.model_dump() for problem in catalog.problems],
        "next_best": None if better is None else better.model_dump(mode="json"),
    }
