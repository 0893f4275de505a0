"""Orders to nodes: one complete value per seat, sent as JSON. A node executes it and makes no decisions."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from pydantic import field_serializer, model_validator

from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.ordered import Deadlines, OrderedImage, OrderedRegistry, order_image, order_registry
from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.seat.document import SeatBundle, SeatDocument
from provisioner.domain.seat.seat import Seat
from provisioner.domain.values.claim import Claim
from provisioner.domain.values.model import Value

STATE_ROOT = "/var/lib/provisioner"


class HeldGpus(Value):
    """The GPUs that a seat has before its order is carried out; `shared`: other seats may use them, too.

    Another order of the same job that gets one of them is carried out afterwards, and deferred where this one failed.
    """

    gpus: tuple[str, ...] = ()
    shared: bool = False


class Order(Value):
    """The order of stage and switch. `document`: what the seat's files are filled from; in JSON its digest alone.

    `claim` None: the user's own machine, no claim is checked. `expects`: the generation that the plan is based on
    (0: no seat yet); None: any. The node applies `when_busy` right before it stops the old containers.
    """

    run: str
    claim: Claim | None = None
    state_root: str = STATE_ROOT
    seat: Seat
    image: OrderedImage
    registry: OrderedRegistry
    document: SeatDocument
    deadlines: Deadlines
    expects: int | None = None
    held: HeldGpus = HeldGpus()
    when_busy: WhenBusy = WhenBusy()

    @model_validator(mode="before")
    @classmethod
    def _with_document(cls, data: Any) -> Any:
        """Read what an earlier release wrote, with the texts of the files."""
        if not isinstance(data, dict) or "files" not in data:
            return data
        return {**data, "document": SeatDocument.of_texts(data["files"])}

    @field_serializer("document")
    def _digest(self, document: SeatDocument) -> str:
        return document.digest

    @property
    def pull_seconds(self) -> int:
        """How long the pull of the image may take."""
        return self.deadlines.pull

    @property
    def files(self) -> dict[str, str]:
        """The files of the seat by name; they contain no secret."""
        return self.document.fill(self.seat)


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

    `when_busy` None: the user's own machine, running work is not checked.
    """

    run: str
    act: Literal["remove", "stop"]
    claim: Claim | None = None
    state_root: str = STATE_ROOT
    seat: SeatName
    held: HeldGpus = HeldGpus()
    when_busy: WhenBusy | None = None


class AssignOrder(Value):
    """Set the public keys of a seat, and whether its GPUs are shared, while it runs: it has the same GPUs as before."""

    run: str
    act: Literal["assign"] = "assign"
    claim: Claim | None = None
    state_root: str = STATE_ROOT
    seat: Seat
    expects: int | None = None
    held: HeldGpus = HeldGpus()


class NoticeOrder(Value):
    """Show `text` to the users of a seat; None clears the notice."""

    run: str
    claim: None = None  # a notice changes no generation, so no claim is checked
    state_root: str = STATE_ROOT
    seat: SeatName
    text: str | None


class DiskLimitOrder(Value):
    """Warn of the use of the disk from so many bytes on; None: not any more."""

    run: str
    claim: None = None  # as for a notice: no generation changes
    state_root: str = STATE_ROOT
    seat: SeatName
    disk_limit: int | None


SwitchOrder = Order | RemovalOrder | AssignOrder
AnyOrder = SwitchOrder | RollbackOrder | NoticeOrder | DiskLimitOrder
OrderT = TypeVar("OrderT")
Orders = Mapping[str, Mapping[str, OrderT]]  # by node and seat


def documents_of(orders: Iterable[AnyOrder]) -> dict[str, SeatDocument]:
    """Return the documents of orders by digest."""
    return {order.document.digest: order.document for order in orders if isinstance(order, Order)}


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
        registry=order_registry(image, ca),
        document=bundle.document,
        deadlines=Deadlines(
            pull=lab.rollout.pull_deadline_seconds,
            healthy=lab.rollout.healthy_deadline_seconds,
            min_healthy=lab.rollout.min_healthy_seconds,
        ),
        when_busy=when_busy,
    )
