"""Build the settings of a student's own seat on the student's own machine from the published lock."""

from provisioner.domain.lab.lab import Lab, Mirror, Registry, SeatSettings, Service, Services, SshService
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.lab.lock_trust import read_trust
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.spelling import did_you_mean


class Account(Value):
    """The account on this machine that the seat is for."""

    user: str
    uid: int
    gid: int


def choose_environment(lock: Lockfile, asked: str | None, running: str) -> str:
    """Return the environment of a personal seat: what is asked for, else what the seat has, else the first of the lock.

    Raises ProblemError (usage) where the lock has none of that name.
    """
    names = [name for name, environment in lock.all_environments.items() if environment.images]
    name = asked or running or names[0]
    if name not in names:
        raise ProblemError(_no_such_environment(lock, name, names), "usage")
    return name


def build_personal_lab(lock: Lockfile, account: Account | None) -> Lab:
    """Return a lab with one seat for `account`: every port on loopback, image and registry as locked.

    None stands for root, which gets the default seat of a rollout, since no seat runs as root.

    Raises ProblemError for a lock that may not be used here, see `read_trust`.
    """
    read_trust(lock)
    address, _, repository = lock.all_images[0].lab.partition("@")[0].partition("/")
    return Lab(
        name=lock.lab,
        mirror=Mirror(address=lock.mirror),
        registry=Registry(address=address, repository=repository),
        services=Services(jupyter=Service(bind="loopback"), ssh=SshService(bind="loopback")),
        seat=SeatSettings(**account.model_dump()) if account else SeatSettings(),
    )


def _no_such_environment(lock: Lockfile, name: str, names: list[str]) -> Problem:
    return Problem(
        "no_such_environment",
        f"the lock of {lock.lab} has no environment {name}{did_you_mean(name, names)}",
        "a seat runs an image that the lock names",
        f"choose with --env one of: {', '.join(names)}",
    )
