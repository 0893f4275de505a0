"""What all seats of a lab have in common beside their image: mounts, settings inside, options of the services."""

from provisioner.domain.lab.inside import Inside
from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.mounts import Mount
from provisioner.domain.values.model import Value


class SeatOptions(Value):
    """The options of lab.yml that seats have in common.

    `agent_forwarding`: of SSH. `extra`: ports inside of a seat, by the name under which Jupyter's proxy shows them.
    """

    mounts: tuple[Mount, ...] = ()
    inside: Inside = Inside()
    agent_forwarding: bool = True
    extra: dict[str, int] = {}


def seat_options(lab: Lab) -> SeatOptions:
    """Return the options of the seats of a lab."""
    services = lab.services
    return SeatOptions(
        mounts=lab.mounts,
        inside=lab.inside,
        agent_forwarding=services.ssh.agent_forwarding,
        extra=services.extra,
    )
