"""Facts of the self-service of a node, from its files: what is published, whether the broker runs, and the leases."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.seat.seat import NAME, Seat
from ansible.module_utils.provisioner.self_service.installed import (
    CONFIG,
    broker_pid,
    installed_lab,
    leases,
    started_by,
    waiting,
)
from ansible.module_utils.provisioner.self_service.layout import CURRENT, Layout


def self_service_facts(state_root: str) -> dict[str, Any] | None:
    """Return the facts, None on a node without self-service. `lab` and `config` are empty if the file is damaged.

    `config`: digest of the configuration. `left_s` of a lease: seconds, at most a minute old.
    """
    layout = Layout(state_root)
    if not layout.config.exists():
        return None
    config = layout.read_json(CONFIG)
    links = {name: layout.link(name, CURRENT) for name in layout.names()}
    return {
        "lab": installed_lab(layout),
        "config": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest() if config else "",
        "pool": _texts(config.get("pool")),
        "version": layout.program_version(),
        "runs": broker_pid(layout) is not None,
        "started_by": started_by(layout),
        "environments": {name: version for name, version in links.items() if version},
        "leases": [_lease_fact(layout, lease) for lease in leases(layout)],
        "waiting": waiting(layout),
    }


def published_images(state_root: str) -> list[str]:
    """Return the images of all versions of all environments; "unknown" for one that cannot be read."""
    layout = Layout(state_root)
    versions = [(name, version) for name in layout.names() for version in layout.versions(name)]
    return sorted({layout.image(name, version) or "unknown" for name, version in versions})


def _lease_fact(layout: Layout, lease: dict[str, Any]) -> dict[str, Any]:
    name = str(lease.get("seat", ""))
    wanted, left = _wanted(layout, name), lease.get("left_s")
    return {
        "seat": name,
        "person": str(wanted.get("person", "")),
        "uid": lease.get("uid"),
        "gpus": _texts(lease.get("gpus")),
        "state": str(lease.get("state", "")),
        "left_s": round(left) if isinstance(left, (int, float)) else 0,
        "environment": str(wanted.get("environment", "")),
        "version": str(wanted.get("version", "")),
    }


def _texts(found: Any) -> list[str]:
    """Return the texts of a list, none where it is none."""
    return [str(one) for one in found] if isinstance(found, list) else []


def _wanted(layout: Layout, name: str) -> dict[str, Any]:
    """Return the seat as its current order has it, or the order that sets it up now; empty where there is neither."""
    if not NAME.fullmatch(name):
        return {}
    seat = Seat(layout.state_root, name)
    with contextlib.suppress(ProblemError):
        number = seat.current()
        if number:
            return dict(seat.order(number)["seat"])
    orders = (layout.read_json(f"orders/{path.name}") for path in layout.folder.glob("orders/*.json"))
    found = (order["seat"] for order in orders if isinstance(order.get("seat"), dict))
    return next((wanted for wanted in found if wanted.get("name") == name), {})
