"""Build the settings of a student's own seat on the student's own machine from the published lock."""

from provisioner.domain.lab.lab import Lab, Mirror, Registry, SeatSettings, Service, Services
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem, ProblemError


class Account(Value):
    """The account on this machine that the seat is for."""

    user: str
    uid: int
    gid: int


def build_personal_lab(lock: Lockfile, account: Account | None) -> Lab:
    """Return a lab with one seat for `account`: every port on loopback, image and registry as locked.

    None stands for root, which gets the default seat of a rollout, since no seat runs as root.

    Raises ProblemError where the lock holds no image.
    """
    if not lock.images:
        problem = Problem(
            "empty_lock",
            f"the lock of {lock.lab} holds no image",
            "a seat runs an image that the lab has locked",
            "ask the lab's admin to run `provision lock` and to publish lab.lock again",
        )
        raise ProblemError(problem)
    address, _, repository = lock.images[0].lab.partition("@")[0].partition("/")
    loopback = Service(bind="loopback")
    return Lab(
        name=lock.lab,
        mirror=Mirror(address=lock.mirror),
        registry=Registry(address=address, repository=repository),
        services=Services(jupyter=loopback, ssh=loopback),
        seat=SeatSettings(**account.model_dump()) if account else SeatSettings(),
    )
