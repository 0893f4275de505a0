"""A node that gets seats: the image and the GPUs that each environment has there."""

from collections.abc import Mapping
from typing import NamedTuple

from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.people.placement import NodeOffer
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.spelling import did_you_mean
from provisioner.workflow.protocols import Host


class ServedEnvironment(NamedTuple):
    """The image of an environment on a node, and the GPUs (UUIDs) that it runs on, in NVML's order."""

    image: LockedImage
    gpus: tuple[str, ...]


class ServedNode(NamedTuple):
    """A node that gets seats. `environments`: those of the lock that have an image there, in the order of the lock.

    `unserved`: why each of the others has none. `remarks`: problems that prevent no seat.
    """

    host: Host
    facts: NodeFacts
    environments: Mapping[str, ServedEnvironment]
    unserved: Mapping[str, tuple[Problem, ...]]
    remarks: tuple[Problem, ...]

    @property
    def gpus(self) -> tuple[str, ...]:
        """The GPUs (UUIDs) that any of the environments runs on, in NVML's order."""
        served = {gpu for environment in self.environments.values() for gpu in environment.gpus}
        return tuple(gpu.uuid for gpu in self.facts.offered_gpus if gpu.uuid in served)

    @property
    def lent_gpus(self) -> tuple[str, ...]:
        """The GPUs that leases may be given from: of the first environment, so that another one takes none away."""
        return next(iter(self.environments.values())).gpus

    def offer(self, gpus: tuple[str, ...]) -> NodeOffer:
        """Return what the node offers to people. `gpus`: the UUIDs that are not for leases."""
        found = {name: environment.gpus for name, environment in self.environments.items()}
        by_environment = {**dict.fromkeys(self.unserved, ()), **found}
        limits = {name: cards for name, cards in by_environment.items() if not {*gpus} <= {*cards} or not cards}
        return NodeOffer(name=self.host.name, gpus=gpus, environments=limits)

    def refusal(self, environment: str, whose: str) -> Problem | None:
        """Return why seats of an environment cannot be on this node; None: they can. `whose`: in words."""
        node = self.host.name
        if environment in self.environments:
            return None
        if environment not in self.unserved:
            return _not_locked(node, environment, (*self.environments, *self.unserved), whose)
        reason = self.unserved[environment][0]
        return Problem(
            "environment_unserved",
            f"{node}: the environment {environment} of {whose} has no image there: {reason.what}",
            reason.why,
            reason.fix,
            node,
        )


def unusable_gpus(node: str, environment: str, whose: str, gpus: tuple[str, ...]) -> Problem:
    """Return why a seat cannot have these GPUs (UUIDs): the image of its environment does not run on them."""
    return Problem(
        "environment_lacks_gpus",
        f"{node}: the environment {environment} of {whose} does not run on {', '.join(gpus)}",
        "the image has no code for these GPUs, or the driver does not support it there",
        "set gpus in the row of the roster to 0, roll out, and set it again; or choose another environment",
        node,
    )


def _not_locked(node: str, environment: str, known: tuple[str, ...], whose: str) -> Problem:
    return Problem(
        "environment_not_locked",
        f"the lock has no environment {environment}, which is that of {whose}{did_you_mean(environment, known)}",
        f"a seat runs an image that is locked; the lock has: {', '.join(known)}",
        "run `provision lock` if lab.yml has the environment; or name another one",
        node,
    )
