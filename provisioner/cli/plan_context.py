"""What plan, rollout and status have in common: read the lab, ask the nodes, hold them against the lock."""

from typing import Any, NamedTuple

from provisioner.adapters.lab.directory import LabDirectory
from provisioner.adapters.lab.lockfile import read_lock
from provisioner.cli.wiring import materials
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.registry.catalog import Catalog
from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.probe import probe
from provisioner.workflow.protocols import Fleet, Probed
from provisioner.workflow.rollout.plan import PreparedPlan, prepare


class Context(NamedTuple):
    probed: Probed
    prepared: PreparedPlan


def require_lock(directory: LabDirectory) -> Lockfile:
    """Raises ProblemError where the lab has none yet."""
    lock = read_lock(directory.lock)
    if lock is None:
        raise ProblemError(_no_lock(directory), "usage")
    return lock


def look(
    directory: LabDirectory, lock: Lockfile, fleet: Fleet, on_event: OnEvent, when_busy: WhenBusy = DEFER
) -> Context:
    probed = probe(fleet, on_event)
    return Context(probed, prepare(materials(directory, lock), fleet.hosts(), probed, when_busy=when_busy))


def source(catalog: Catalog) -> dict[str, Any]:
    """What a document says beside the choice: where it was made, what is to be said of that place, what was better."""
    better = catalog.next_best
    return {
        "mirror": catalog.mirror,
        "problems": [problem.model_dump() for problem in catalog.problems],
        "next_best": None if better is None else better.model_dump(mode="json"),
    }


def _no_lock(directory: LabDirectory) -> Problem:
    return Problem(
        "no_lock",
        f"{directory.lock}: the lab has no lock yet",
        "a plan is the difference between what runs and what the lock holds the lab to",
        f"provision lock {directory.path}",
    )
