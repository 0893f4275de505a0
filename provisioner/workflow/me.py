"""Build the settings of a student's own seat on the student's own machine from the published lock."""

from provisioner.domain.lab.lab import Lab, Mirror, Registry, SeatSettings, Service, Services, SshService
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.lab.lock_trust import read_trust
from provisioner.domain.values.model import Value


class Account(Value):
    """The account on this machine that the seat is for."""

    user: str
    uid: int
    gid: int


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
