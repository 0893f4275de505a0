"""Batches: the orders of several seats as they are sent to a node."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from provisioner.domain.rollout.order import AnyOrder


def dump_batch(orders: Mapping[str, AnyOrder]) -> str:
    """Return the orders of one run to the seats of one node, at least one, as JSON.

    The seats share most of their files: `files` of an order holds a SHA-256 for each, and `texts` the text to each
    SHA-256.
    """
    texts: dict[str, str] = {}
    dumped = [_with_digests(order.model_dump(mode="json"), texts) for order in orders.values()]
    shared = {name: dumped[0][name] for name in ("run", "claim", "state_root")}
    return json.dumps({**shared, "orders": dumped, "texts": texts})


def _with_digests(order: dict[str, Any], texts: dict[str, str]) -> dict[str, Any]:
    """Replace the texts of the files of an order by their digests; add the texts to `texts`."""
    if "files" not in order:
        return order
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in order["files"].items()}
    texts.update((digest, order["files"][name]) for name, digest in digests.items())
    return {**order, "files": digests}
