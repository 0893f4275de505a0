"""A seat: one node, one user, some GPUs, two ports and an identity. Everything that a compose project is made of."""

from collections.abc import Iterable, Mapping
from typing import Literal

from provisioner.domain.lab.lab import Lab, Limits, Ports, lan_address
from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.values.model import Value
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem

ServiceName = Literal["jupyter", "ssh"]
SERVICES: tuple[ServiceName, ...] = ("jupyter", "ssh")

# The first engine that knows a start interval; older ones refuse a compose file that names one.
START_INTERVAL_SINCE = 25


class Seat(Value):
    """`gpus` are UUIDs. `ports` and `binds` are on the node; inside, the services always listen on 8888 and 2222."""

    name: str
    lab: str
    node: str
    user: str
    uid: int
    gid: int
    home: str  # on the node
    gpus: tuple[str, ...]
    gpu_driver: Literal["nvidia", "cdi"]
    ports: dict[ServiceName, int]
    binds: dict[ServiceName, str]
    authorized_keys: tuple[str, ...] = ()
    limits: Limits = Limits()
    start_interval: bool = True


class SeatBundle(Value):
    """A seat, rendered: `files` maps a path below the seat's generation to its text. Holds no secret."""

    seat: Seat
    image: LockedImage
    files: dict[str, str]


def free_ports(held: Mapping[str, int], wanted: Ports, taken: Iterable[int]) -> dict[ServiceName, int] | None:
    """The ports a seat holds already stay; else the first free pair (ssh first). None where the range is used up."""
    if set(SERVICES) <= set(held):
        return {name: held[name] for name in SERVICES}
    used = set(taken)
    pairs = ((port, port + 1) for port in range(wanted.first, wanted.last, 2))
    pair = next((pair for pair in pairs if used.isdisjoint(pair)), None)
    return None if pair is None else {"ssh": pair[0], "jupyter": pair[1]}


def seat_name(lab: str, user: str) -> str:
    return f"{lab}-{user}"


def seat_of(  # noqa: PLR0913  (a seat is where the wish, the node and the lock meet)
    lab: Lab,
    facts: NodeFacts,
    gpus: tuple[str, ...],
    keys: tuple[str, ...],
    *,
    host: str | None,
    home: str | None = None,
) -> Seat | Problem:
    """The seat of a node in a lab without a roster: all of `gpus` (UUIDs), the user of `lab.yml`."""
    name = seat_name(lab.name, lab.seat.user)
    held = next((seat for seat in facts.seats if seat.name == name), None)
    others = [port for seat in facts.seats if seat.name != name for port in seat.ports.values()]
    ports = free_ports(held.ports if held else {}, lab.seat.ports, others)
    if ports is None:
        return _no_ports(lab.seat.ports)
    binds = _binds(lab, lan_address(facts.addresses, host))
    if binds is None:
        return _no_address(facts.name)
    return Seat(
        name=name,
        lab=lab.name,
        node=facts.name,
        user=lab.seat.user,
        uid=lab.seat.uid,
        gid=lab.seat.gid,
        home=home or f"{lab.seat.homes}/{lab.seat.user}",
        gpus=gpus,
        gpu_driver="cdi" if _all_in_cdi(facts, gpus) else "nvidia",
        ports=ports,
        binds=binds,
        authorized_keys=keys,
        limits=lab.seat.limits,
        start_interval=facts.engine is not None and _major(facts.engine.version) >= START_INTERVAL_SINCE,
    )


def _binds(lab: Lab, lan: str | None) -> dict[ServiceName, str] | None:
    wanted: dict[ServiceName, str] = {"jupyter": lab.services.jupyter.bind, "ssh": lab.services.ssh.bind}
    if lan is None and "lan" in wanted.values():
        return None
    return {name: "127.0.0.1" if bind == "loopback" or lan is None else lan for name, bind in wanted.items()}


def _all_in_cdi(facts: NodeFacts, gpus: tuple[str, ...]) -> bool:
    """CDI is taken only where it names these very cards: it survives a daemon-reload, the legacy hook does not."""
    return bool(gpus) and all(f"nvidia.com/gpu={uuid}" in facts.cdi_devices for uuid in gpus)


def _major(version: str) -> int:
    head = version.split(".", 1)[0]
    return int(head) if head.isdigit() else 0


def _no_ports(ports: Ports) -> Problem:
    return Problem(
        "no_free_port",
        f"every pair of ports from {ports.first} to {ports.last} is taken by another seat",
        "a seat publishes SSH and Jupyter on two ports of its own, and keeps them",
        "widen seat.ports in lab.yml, or remove a seat that is no longer used",
    )


def _no_address(node: str) -> Problem:
    return Problem(
        "no_lan_address",
        f"{node} has no IPv4 address that a service could be published on",
        "lab.yml asks for `bind: lan`, and a service is never published on every address",
        "set ansible_host to the node's address in hosts.yml, or `bind: loopback` in lab.yml",
    )
