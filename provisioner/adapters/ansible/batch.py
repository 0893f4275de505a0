"""Batches: the orders of several seats as they are sent to a node."""

import json
from collections.abc import Mapping

from provisioner.domain.rollout.fetch import FetchOrder
from provisioner.domain.rollout.order import AnyOrder, documents_of
from provisioner.domain.rollout.publish import PublicationOrder


def dump_batch(orders: Mapping[str, AnyOrder]) -> str:
    """Return the orders of one run to the seats of one node, at least one, as JSON.

    `document` of an order is a digest; `documents` has the document of each digest. The claim of the batch covers the
    seats of its orders.
    """
    dumped = [order.model_dump(mode="json") for order in orders.values()]
    documents = {digest: found.model_dump(mode="json") for digest, found in documents_of(orders.values()).items()}
    shared = {name: dumped[0][name] for name in ("run", "state_root")}
    claim = next(iter(orders.values())).claim
    held = claim.of_seats(orders).model_dump() if claim else None
    return json.dumps({**shared, "claim": held, "orders": dumped, "documents": documents})


def dump_fetch(orders: Mapping[str, FetchOrder]) -> str:
    """Return the only order of a node as JSON."""
    (order,) = orders.values()
    return order.model_dump_json()


def dump_publication(orders: Mapping[str, PublicationOrder]) -> str:
    """Return the only order of a node as JSON, with the documents of its environments."""
    (order,) = orders.values()
    return json.dumps(order.for_node())
