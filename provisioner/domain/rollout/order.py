"""What a node is told: one value per node, sent as JSON, complete, so that the node decides nothing."""

from typing import Literal

from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.seat.seat import Seat, SeatBundle
from provisioner.domain.values.claim import Claim
from provisioner.domain.values.model import Value

STATE_ROOT = "/var/lib/provisioner"


class OrderedImage(Value):
    """`reference` is by digest and in the lab's own registry; `rootfs` are the diff IDs it must unpack to."""

    reference: str
    tag: str
    platform: str
    rootfs: tuple[str, ...] = ()
    bytes: int = 0


class OrderedRegistry(Value):
    """`ca` is PEM text for the engine's certs.d; None leaves that folder alone."""

    address: str
    ca: str | None = None


class Deadlines(Value):
    """Seconds."""

    pull: int
    healthy: int
    min_healthy: int


class Order(Value):
    """Stage and switch read the same order. `files` are the seat's rendered files; none of them holds a secret.

    `claim` None: one's own machine, nothing is checked. `expects` is the generation that the plan was made against
    (0: no seat yet); None takes any. `when_busy` is asked once more on the node, right before anything old stops.
    """

    run: str
    claim: Claim | None = None
    state_root: str = STATE_ROOT
    seat: Seat
    image: OrderedImage
    registry: OrderedRegistry
    files: dict[str, str]
    deadlines: Deadlines
    expects: int | None = None
    when_busy: WhenBusy = WhenBusy()


class NamedSeat(Value):
    name: str


class BackOrder(Value):
    """Back to a generation that the node keeps; `to` 0 is the one before the present one, `expects`."""

    run: str
    claim: Claim | None = None
    state_root: str = STATE_ROOT
    seat: NamedSeat
    to: int = 0
    expects: int | None = None
    when_busy: WhenBusy = WhenBusy()


class DownOrder(Value):
    """To take a seat down: so that it can come back as it was (`stop`), or for good; homes and identities stay.

    `when_busy` None: one's own machine, nobody is asked who works there.
    """

    run: str
    act: Literal["remove", "stop"]
    claim: Claim | None = None
    state_root: str = STATE_ROOT
    seat: NamedSeat
    when_busy: WhenBusy | None = None


def ordered(image: LockedImage) -> OrderedImage:
    return OrderedImage(
        reference=image.lab, tag=image.reference, platform=image.platform, rootfs=image.rootfs, bytes=image.bytes
    )


def order_for(  # noqa: PLR0913  (what was agreed, for whom, and where it is kept)
    bundle: SeatBundle,
    lab: Lab,
    run: str,
    *,
    ca: str | None,
    state_root: str = STATE_ROOT,
    when_busy: WhenBusy = DEFER,
) -> Order:
    image = bundle.image
    return Order(
        run=run,
        state_root=state_root,
        seat=bundle.seat,
        image=ordered(image),
        registry=OrderedRegistry(address=image.lab.split("/", 1)[0], ca=ca),
        files=bundle.files,
        deadlines=Deadlines(
            pull=lab.rollout.pull_deadline_seconds,
            healthy=lab.rollout.healthy_deadline_seconds,
            min_healthy=lab.rollout.min_healthy_seconds,
        ),
        when_busy=when_busy,
    )
