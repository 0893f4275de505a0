"""Orders to nodes: one complete value per seat, sent as JSON. A node executes it and makes no decisions."""

from collections.abc import Mapping
from typing import Literal, TypeVar

from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.seat.seat import Seat, SeatBundle
from provisioner.domain.values.claim import Claim
from provisioner.domain.values.model import Value

STATE_ROOT = "/var/lib/provisioner"


class OrderedImage(Value):
    """An image to pull. `reference` is by digest in the lab's registry; `rootfs`: diff IDs of the unpacked layers."""

    reference: str
    tag: str
    platform: str
    rootfs: tuple[str, ...] = ()
    bytes: int = 0


class OrderedRegistry(Value):
    """The registry to pull from. `ca`: PEM text for the engine's certs.d; None: that folder is not changed."""

    address: str
    ca: str | None = None


class Deadlines(Value):
    """Time limits in seconds. `min_healthy`: how long the services must stay healthy."""

    pull: int
    healthy: int
    min_healthy: int


class Order(Value):
    """The order of stage and switch. `files` are the seat's rendered files and contain no secret.

    `claim` None: the user's own machine, no claim is checked. `expects`: the generation that the plan is based on
    (0: no seat yet); None: any. The node applies `when_busy` right before it stops the old containers.
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


class SeatName(Value):
    """A seat by its name, for orders that need nothing else of it."""

    name: str


class RollbackOrder(Value):
    """Roll back to a generation that the node keeps. `to` 0: the one before the current one, `expects`."""

    run: str
    claim: Claim | None = None
    state_root: str = STATE_ROOT
    seat: SeatName
    to: int = 0
    expects: int | None = None
    when_busy: WhenBusy = WhenBusy()


class RemovalOrder(Value):
    """Remove a seat, or `stop` it so that it can be started again. Homes and identities stay in both cases.

    `when_busy` None: the user's own machine, running work is not checked. `gpus`: those that the seat has alone. Where
    it could not be stopped, an order of the same job that gives one of them to somebody else is deferred.
    """

    run: str
    act: Literal["remove", "stop"]
    claim: Claim | None = None
    state_root: str = STATE_ROOT
    seat: SeatName
    gpus: tuple[str, ...] = ()
    when_busy: WhenBusy | None = None


class NoticeOrder(Value):
    """Show `text` to the users of a seat; None clears the notice."""

    run: str
    claim: None = None  # a notice changes no generation, so no claim is checked
    state_root: str = STATE_ROOT
    seat: SeatName
    text: str | None


AnyOrder = Order | RollbackOrder | RemovalOrder | NoticeOrder
OrderT = TypeVar("OrderT")
Orders = Mapping[str, Mapping[str, OrderT]]  # by node and seat


def order_image(image: LockedImage) -> OrderedImage:
    """Return the locked image in the form of an order."""
    return OrderedImage(
        reference=image.lab, tag=image.reference, platform=image.platform, rootfs=image.rootfs, bytes=image.bytes
    )


def build_order(  # noqa: PLR0913  (an order combines them)
    bundle: SeatBundle,
    lab: Lab,
    run: str,
    *,
    ca: str | None,
    state_root: str = STATE_ROOT,
    when_busy: WhenBusy = DEFER,
) -> Order:
    """Build the order that brings a rendered seat to its node. `ca`: PEM text, None: certs.d is not changed."""
    image = bundle.image
    return Order(
        run=run,
        state_root=state_root,
        seat=bundle.seat,
        image=order_image(image),
        registry=OrderedRegistry(address=image.lab.split("/", 1)[0], ca=ca),
        files=bundle.files,
        deadlines=Deadlines(
            pull=lab.rollout.pull_deadline_seconds,
            healthy=lab.rollout.healthy_deadline_seconds,
            min_healthy=lab.rollout.min_healthy_seconds,
        ),
        when_busy=when_busy,
    )
