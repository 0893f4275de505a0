"""The order to publish the self-service of a node, or to remove it."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import field_serializer

from provisioner.domain.rollout.busy import WhenBusy
from provisioner.domain.rollout.order import STATE_ROOT
from provisioner.domain.seat.document import SeatDocument
from provisioner.domain.self_service.config import SelfServiceConfig
from provisioner.domain.values.claim import Claim
from provisioner.domain.values.model import Value

SOCKET = "/run/provisioner/broker.sock"


class PublicationOrder(Value):
    """Publish `config`, or remove self-service with the seats that people have started themselves.

    `version`: of the program; a node keeps a later one. `documents`: by environment; in JSON their digests alone, see
    `for_node`. `when_busy`: what to do with seats in use before they are removed.
    """

    run: str
    claim: Claim | None = None
    state_root: str = STATE_ROOT
    act: Literal["publish", "remove"]
    version: str
    socket: str = SOCKET
    config: SelfServiceConfig | None = None
    documents: dict[str, SeatDocument] = {}
    when_busy: WhenBusy | None = None

    @field_serializer("documents")
    def _digests(self, documents: dict[str, SeatDocument]) -> dict[str, str]:
        return {name: document.digest for name, document in documents.items()}

    @property
    def pull_seconds(self) -> int:
        """How long the pull of an image may take; 0 where none is published."""
        environments = self.config.environments.values() if self.config else ()
        return min((environment.deadlines.pull for environment in environments), default=0)

    def for_node(self) -> dict[str, Any]:
        """Return the order as a node gets it: with its documents."""
        documents = {name: document.model_dump(mode="json") for name, document in self.documents.items()}
        return {**self.model_dump(mode="json"), "documents": documents}


def published_documents(orders: Iterable[PublicationOrder]) -> dict[str, SeatDocument]:
    """Return the documents of orders by digest."""
    return {document.digest: document for order in orders for document in order.documents.values()}
