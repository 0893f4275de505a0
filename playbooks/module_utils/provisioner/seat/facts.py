"""Facts of the seats of a node: what is committed, and what runs."""

from __future__ import annotations

from typing import Any, Iterable

from ansible.module_utils.provisioner.base.packing import pack
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.docker.containers import Listing, list_containers
from ansible.module_utils.provisioner.docker.engine import SEAT_LABEL
from ansible.module_utils.provisioner.jobs.job import problem_of
from ansible.module_utils.provisioner.mount.check import find_faults, mounts_of
from ansible.module_utils.provisioner.mount.record import noted
from ansible.module_utils.provisioner.seat.busy import affected_users, any_running
from ansible.module_utils.provisioner.seat.compose import SERVICES, describe_service, service_state
from ansible.module_utils.provisioner.seat.drift import find_drift
from ansible.module_utils.provisioner.seat.identity import host_key, made_on
from ansible.module_utils.provisioner.seat.journal import OPEN_STATES, Journal
from ansible.module_utils.provisioner.seat.rollback_target import rollback_target
from ansible.module_utils.provisioner.seat.seat import NAME, SELF_SERVICE, Seat, seats_of

DAY = len("2027-01-31")  # at the beginning of the time of a step
STARTED = {"running", "restarting", "healthy", "unhealthy"}
MOUNT_SECONDS = 5  # for all mounts of the node together


def seat_facts(state_root: str, gpus: Iterable[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """Return the facts of all recorded seats, and of seats that run without a record, as their ports are in use.

    `gpus` are the GPU facts of the node.
    """
    seats = seats_of(state_root)
    listing = list_containers(SEAT_LABEL, {seat.name for seat in seats if _is_self_service(seat)})
    running = {name for name in listing.labels(SEAT_LABEL) if NAME.fullmatch(name)}
    names = {seat.name for seat in seats} | running
    facts = [_fact_or_damage(Seat(state_root, name), gpus, listing) for name in sorted(names)]
    return _with_mount_faults([fact for fact in facts if fact])


def _with_mount_faults(facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the facts with what is wrong with the mounts of each seat now. Each mount is looked at once."""
    mounts = [mounts_of(fact) for fact in facts]
    distinct = {str(mount): mount for found in mounts for mount in found}
    faults = dict(zip(distinct, find_faults(distinct.values(), None, MOUNT_SECONDS)))
    for fact, own in zip(facts, mounts):
        found = [faults[str(mount)] for mount in own]
        fact["drift"] = [*(fault.problem for fault in found if fault), *fact["drift"]]
    return facts


def _is_self_service(seat: Seat) -> bool:
    """Return whether its person has started the seat. No plan removes its containers: they are measured at night."""
    try:
        number = seat.current()
        return bool(number) and seat.order(number)["seat"].get("kind") == SELF_SERVICE
    except ProblemError:
        return False


def pack_files(seats: list[dict[str, Any]]) -> dict[str, Any]:
    """Return `seats` with a number in place of the text of each file, and the different texts by these numbers.

    `texts` are all of them in one, packed, `lengths` their numbers of characters. Most files are the same in all seats,
    and the others are similar to those of the same name, which are therefore neighbours.
    """
    named = sorted({pair for seat in seats for pair in seat.get("files", {}).items()})
    numbers = {text: number for number, text in enumerate(dict.fromkeys(text for _, text in named))}
    return {
        "seats": [_numbered(seat, numbers) for seat in seats],
        "texts": pack("".join(numbers)),
        "lengths": [len(text) for text in numbers],
    }


def _numbered(seat: dict[str, Any], numbers: dict[str, int]) -> dict[str, Any]:
    return {**seat, "files": {name: numbers[text] for name, text in seat.get("files", {}).items()}}


def kept_images(state_root: str) -> list[str]:
    """Return the images of all generations of all seats; "unknown" for an order that cannot be read."""
    return sorted({name for seat in seats_of(state_root) for name in _images(seat)})


def _images(seat: Seat) -> set[str]:
    try:
        return {_image(seat, number) for number in seat.numbers()}
    except OSError:
        return {"unknown"}


def _image(seat: Seat, number: int) -> str:
    try:
        return str(seat.order(number)["image"]["reference"])
    except ProblemError:
        return "unknown"


def _fact_or_damage(seat: Seat, gpus: Iterable[dict[str, Any]], listing: Listing) -> dict[str, Any] | None:
    """Return the facts of a seat, or that it is damaged: it must not hide the other seats of the node."""
    try:
        return _fact(seat, gpus, listing)
    except Exception as error:  # noqa: BLE001  (whatever is wrong with the seat's files)
        services = dict.fromkeys(SERVICES, "unknown")
        damage = {"name": seat.name, "generation": 0, "image": "", "services": services, "state": "damaged"}
        return {**damage, "drift": [problem_of(error)]}


def _fact(seat: Seat, gpus: Iterable[dict[str, Any]], listing: Listing) -> dict[str, Any] | None:
    number, last = seat.current(), Journal(seat.folder, "").last_step()
    state = last["state"] if last else "unrecorded"
    if not (number or seat.name in listing.labels(SEAT_LABEL) or state in (*OPEN_STATES, "needs_attention")):
        return None
    try:
        order = seat.order(number) if number else None
    except ProblemError:
        order, state = None, "damaged"
    wanted = order["seat"] if order else {}
    listed = listing.of_project(seat.name)
    found = _describe_services(listed)
    services = {service: service_state(found[service]) if found else "unknown" for service in SERVICES}
    return {
        "name": seat.name,
        "lab": wanted.get("lab", ""),
        "kind": wanted.get("kind", ""),
        "generation": number,
        "image": order["image"]["reference"] if order else "",
        "files": seat.files(number) if number else {},
        "ports": order["seat"]["ports"] if order else _published(found or {}),
        "subnet": wanted.get("subnet", ""),
        "gpus": order["seat"]["gpus"] if order else [],
        "shared": wanted.get("shared", False),
        "person": wanted.get("person", ""),
        "environment": wanted.get("environment", ""),
        "uid": wanted.get("uid"),
        "home": wanted.get("home", ""),
        "limits": wanted.get("limits"),
        "capacity": wanted.get("capacity"),  # None: an order of an earlier release
        "host_key": host_key(seat),
        "since": made_on(seat),
        "stopped_on": last["at"][:DAY] if last and state == "stopped" else None,
        "services": services,
        "state": state,
        "run": last["run"] if last else "",
        "previous": _previous(seat),
        # What is lost when a container is removed.
        "layer_bytes": None if wanted.get("kind") == SELF_SERVICE else listing.layer_bytes(listed),
        "at_work": affected_users(seat, gpus) if listed is None or any_running(listed) else [],
        "drift": [
            *(noted(seat.folder) if not STARTED.intersection(services.values()) else []),
            *(find_drift(seat, order, found, gpus, listing.active()) if order and found else []),
        ],
        "disk": seat.disk_use(),
        "disk_limit": seat.disk_limit(),
        "home_fault": last["detail"].get("home_fault") if last and set(services.values()) != {"healthy"} else None,
    }


def _previous(seat: Seat) -> int:
    """Return the generation that a rollback would go to, 0 when there is none."""
    try:
        return rollback_target(seat)
    except ProblemError:
        return 0


def _describe_services(listed: list[dict[str, Any]] | None) -> dict[str, dict[str, Any] | None] | None:
    """Return the container of each service, None when the engine does not answer."""
    try:
        return None if listed is None else {service: describe_service(listed, service) for service in SERVICES}
    except ProblemError:
        return None


def _published(found: dict[str, dict[str, Any] | None]) -> dict[str, int]:
    """Return the ports that containers without a record publish."""
    ports = {service: _port(container) for service, container in found.items() if container}
    return {service: port for service, port in ports.items() if port}


def _port(container: dict[str, Any]) -> int | None:
    bound = [entry for entries in (container["HostConfig"].get("PortBindings") or {}).values() for entry in entries]
    return int(bound[0]["HostPort"]) if bound and bound[0].get("HostPort") else None


def attention_problem(seat: dict[str, Any]) -> dict[str, str] | None:
    """Return the problem `needs_attention` of a seat whose rollback failed, until it is healthy again or removed."""
    gone = set(seat["services"].values()) == {"missing"} and not seat["generation"]
    well = set(seat["services"].values()) == {"healthy"}
    if seat["state"] != "needs_attention" or gone or well:
        return None
    return {
        "code": "needs_attention",
        "what": f"{seat['name']} runs neither its new generation nor its old one ({seat['generation']})",
        "why": ", ".join(f"{service} is {state}" for service, state in seat["services"].items()),
        "fix": f"check on the node: docker compose -p {seat['name']} logs; then run `provision rollback`, or"
        " `provision remove` and a new rollout",
    }
