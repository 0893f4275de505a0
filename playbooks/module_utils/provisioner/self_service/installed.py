"""What is known of the self-service on a node from its files alone; damaged files count as missing ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.provisioner.base.files import read
from ansible.module_utils.provisioner.base.host import boot_id
from ansible.module_utils.provisioner.broker.config import LOCK_FILE
from ansible.module_utils.provisioner.self_service.layout import Layout

CONFIG, LEASES, STARTED = "config.json", "leases.json", "started.json"


def installed_lab(layout: Layout) -> str:
    """Return the lab whose configuration is on the node, empty where there is none that can be read."""
    lab = layout.read_json(CONFIG).get("lab")
    return lab if isinstance(lab, str) else ""


def leases(layout: Layout) -> list[dict[str, Any]]:
    """Return the leases as the broker has recorded them."""
    found = layout.read_json(LEASES).get("leases")
    return [lease for lease in found.values() if isinstance(lease, dict)] if isinstance(found, dict) else []


def leased_gpus(layout: Layout) -> set[str]:
    """Return the GPUs that somebody has a lease of."""
    return {str(gpu) for lease in leases(layout) for gpu in lease.get("gpus") or ()}


def waiting(layout: Layout) -> int:
    """Return how many people wait for a GPU."""
    queue = layout.read_json(LEASES).get("queue")
    return len(queue) if isinstance(queue, list) else 0


def is_in_use(layout: Layout) -> bool:
    """Return whether the broker runs, or somebody has a lease."""
    return broker_pid(layout) is not None or bool(leases(layout))


def broker_pid(layout: Layout) -> int | None:
    """Return the process of the broker, None where none runs. A pid that another program has by now does not count."""
    text = read(layout.folder / LOCK_FILE)
    if not (text.isdecimal() and str(layout.main) in read(Path(f"/proc/{text}/cmdline")).split("\0")):
        return None
    return int(text)


def is_started_from(layout: Layout, socket: str, program: str) -> bool:
    """Return whether the broker runs with this socket, from the program with this digest."""
    started = layout.read_json(STARTED)
    return broker_pid(layout) is not None and (started.get("socket"), started.get("program")) == (socket, program)


def started_by(layout: Layout) -> str:
    """Return what has started the broker: `systemd`, `systemd_run`, `cron` or `none`."""
    started: dict[str, Any] = layout.read_json(STARTED)
    by = str(started.get("by", "none"))
    return "systemd" if by == "systemd_run" and started.get("boot_id") != boot_id() else by
