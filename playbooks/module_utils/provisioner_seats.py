"""The seats of this node: what each has in force, and what of it really runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.provisioner_compose import SERVICES, Compose
from ansible.module_utils.provisioner_engine import get
from ansible.module_utils.provisioner_host import Fault
from ansible.module_utils.provisioner_identity import host_key
from ansible.module_utils.provisioner_journal import OPEN_STATES, Journal
from ansible.module_utils.provisioner_seat import NAME, Seat

LABEL = "provisioner.seat"


def seat_facts(state_root: str) -> list[dict[str, Any]]:
    """Seats that are recorded here, and such as only run here: their record was lost, but their ports are taken."""
    running = _running_names()
    recorded = {path.name for path in (Path(state_root) / "seats").glob("*") if NAME.fullmatch(path.name)}
    return [
        fact for fact in (_fact(Seat(state_root, name), name in running) for name in sorted(recorded | running)) if fact
    ]


def kept_images(state_root: str) -> list[str]:
    """What any seat here has a generation of: it runs, it is the one to go back to, or it is staged.

    "unknown" for one whose order cannot be read.
    """
    seats = [
        Seat(state_root, path.name) for path in (Path(state_root) / "seats").glob("*") if NAME.fullmatch(path.name)
    ]
    return sorted({_image(seat, number) for seat in seats for number in seat.numbers()})


def _image(seat: Seat, number: int) -> str:
    try:
        return str(seat.order(number)["image"]["reference"])
    except Fault:
        return "unknown"


def _running_names() -> set[str]:
    try:
        found = get("/containers/json", all="1", filters={"label": [LABEL]}) or []
    except Fault:
        return set()
    names = {container["Labels"][LABEL] for container in found}
    return {name for name in names if NAME.fullmatch(name)}


def _fact(seat: Seat, running: bool) -> dict[str, Any] | None:
    number, last = seat.current(), Journal(seat.folder, "").last()
    state = last["state"] if last else "unrecorded"
    if not (number or running or state in (*OPEN_STATES, "needs_attention")):
        return None
    try:
        order = seat.order(number) if number else None
    except Fault:
        order, state = None, "damaged"
    services, ports = _services(seat)
    return {
        "name": seat.name,
        "generation": number,
        "image": order["image"]["reference"] if order else "",
        "files": seat.files(number) if number else {},
        "ports": order["seat"]["ports"] if order else ports,
        "gpus": order["seat"]["gpus"] if order else [],
        "host_key": host_key(seat),
        "services": services,
        "state": state,
    }


def _services(seat: Seat) -> tuple[dict[str, str], dict[str, int]]:
    """States, and the ports that containers without a record publish."""
    compose = Compose(seat)
    try:
        found = {service: compose.container(service) for service in SERVICES}
    except Fault:
        return dict.fromkeys(SERVICES, "unknown"), {}
    ports = {service: _published(container) for service, container in found.items() if container}
    return compose.services(), {service: port for service, port in ports.items() if port}


def _published(container: dict[str, Any]) -> int | None:
    bound = [entry for entries in (container["HostConfig"].get("PortBindings") or {}).values() for entry in entries]
    return int(bound[0]["HostPort"]) if bound and bound[0].get("HostPort") else None


def attention(seat: dict[str, Any]) -> dict[str, str] | None:
    """A seat that could not be brought back needs a person, until it is healthy again or gone."""
    gone = set(seat["services"].values()) == {"missing"} and not seat["generation"]
    well = set(seat["services"].values()) == {"healthy"}
    if seat["state"] != "needs_attention" or gone or well:
        return None
    return {
        "code": "needs_attention",
        "what": f"{seat['name']} reached neither its new generation nor its old one, {seat['generation']}",
        "why": ", ".join(f"{service} is {state}" for service, state in seat["services"].items()),
        "fix": f"see on the node why: docker compose -p {seat['name']} logs; `provision remove` takes it down",
    }
