"""In which order the seats of a batch are changed, where one gets GPUs that another one has until then."""

from __future__ import annotations

from typing import Any, Iterable


def find_givers(orders: Iterable[dict[str, Any]]) -> dict[str, set[str]]:
    """Return for each seat the other seats of the batch that have GPUs which it gets.

    Where a GPU is shared before and after, it needs no order.
    """
    known = {order["seat"]["name"]: order for order in orders}
    return {
        name: {other for other in known if other != name and _gives(known[other], order)}
        for name, order in known.items()
    }


def _gives(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether the first order has to be carried out before the other one."""
    held, wanted = one.get("held") or {}, other["seat"]
    if held.get("shared") and wanted.get("shared"):
        return False
    return not set(held.get("gpus", ())).isdisjoint(wanted.get("gpus", ()))
