"""A student's own seat on their own machine: the same journey, with a lab of one made from the published lock."""

from provisioner.domain.lab.lab import Lab, Mirror, Registry, SeatSettings, Service, Services
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem, ProblemError


class Person(Value):
    """Who asks, on this machine."""

    user: str
    uid: int
    gid: int


def lab_of_one(lock: Lockfile, person: Person | None) -> Lab:
    """The wish of a seat for this person: every port on loopback, image and registry as locked.

    Nobody in particular, so root, gets the seat that a rollout would make: nothing runs as root in it.

    Raises ProblemError where the lock holds no image.
    """
    if not lock.images:
        raise ProblemError(_empty(lock.lab))
    address, _, repository = lock.images[0].lab.partition("@")[0].partition("/")
    loopback = Service(bind="loopback")
    return Lab(
        name=lock.lab,
        mirror=Mirror(address=lock.mirror),
        registry=Registry(address=address, repository=repository),
        services=Services(jupyter=loopback, ssh=loopback),
        seat=SeatSettings(**person.model_dump()) if person else SeatSettings(),
    )


def _empty(lab: str) -> Problem:
    return Problem(
        "empty_lock",
        f"the lock of {lab} holds no image",
        "a seat runs an image that the lab has locked",
        "ask the lab's admin to run `provision lock` and to publish lab.lock again",
    )
