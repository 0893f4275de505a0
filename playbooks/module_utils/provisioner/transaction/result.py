"""The record of a committed seat."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.provisioner.seat.identity import host_key
from ansible.module_utils.provisioner.seat.seat import Seat


def committed_record(seat: Seat) -> dict[str, Any]:
    """Return the record of a seat that is on the wanted generation."""
    number = seat.current()
    return {"state": "committed", "generation": number, "access": _access(seat, seat.order(number)["seat"])}


def _access(seat: Seat, wanted: dict[str, Any]) -> dict[str, str]:
    binds, ports = wanted["binds"], wanted["ports"]
    return {
        "jupyter": f"http://{binds['jupyter']}:{ports['jupyter']}/lab",
        "ssh": f"ssh -p {ports['ssh']} {wanted['user']}@{binds['ssh']}",
        "host_key": host_key(seat),
    }
