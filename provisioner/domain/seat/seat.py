"""A seat: one node, one user, some GPUs, two ports and an identity; all values of its compose project."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import IPv4Network
from typing import Any, Literal, NamedTuple

from pydantic import SerializerFunctionWrapHandler, model_serializer

from provisioner.domain.lab.environments import DEFAULT_ENVIRONMENT
from provisioner.domain.lab.lab import Lab, Limits, Ports, lan_address
from provisioner.domain.seat.limits import build_limits, choose_capacity, with_known
from provisioner.domain.seat.options import SeatOptions, seat_options
from provisioner.domain.values.allocation import SEAT_PREFIX, free_pair, free_subnet, unique_name
from provisioner.domain.values.limits import Capacity, SeatLimits
from provisioner.domain.values.model import Value
from provisioner.domain.values.node import NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem

ServiceName = Literal["jupyter", "ssh"]
SeatKind = Literal["", "self_service"]
SERVICES: tuple[ServiceName, ...] = ("jupyter", "ssh")

# The first major version of Docker with start_interval; older ones refuse a compose file that has it.
START_INTERVAL_SINCE = 25

_FIRST_PORT = 1024  # a seat has no lower one, whatever a node reports


class Seat(Value):
    """All values of a seat. `gpus` are UUIDs; `ports` and `binds` are those of the node.

    `person`: the id in the roster, empty in a lab without one. `shared`: other seats use the GPUs, too. The `limits` of
    each container follow from lab.yml and from `capacity`, which the node keeps with the generation. Inside the
    containers the services always listen on 8888 (jupyter) and 2222 (ssh).

    `kind`: `self_service` for a seat that its person starts through the broker of the node. `cull_s`: after so many
    seconds an idle kernel of such a seat is ended, 0: never.

    `options` are those of its lab.
    """

    name: str
    kind: SeatKind = ""
    lab: str
    node: str
    person: str = ""
    environment: str = DEFAULT_ENVIRONMENT
    user: str
    uid: int
    gid: int
    home: str  # on the node
    gpus: tuple[str, ...]
    shared: bool = False
    gpu_driver: Literal["nvidia", "cdi"]
    ports: dict[ServiceName, int]
    binds: dict[ServiceName, str]
    subnet: str = ""  # of the network of its containers; empty in an order of an earlier release
    authorized_keys: tuple[str, ...] = ()
    limits: SeatLimits = SeatLimits()
    capacity: Capacity = Capacity()
    start_interval: bool = True
    cull_s: int = 0
    options: SeatOptions = SeatOptions()

    @model_serializer(mode="wrap")
    def _serialize(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the options of a lab that has none: a node has thousands of seats."""
        fields: dict[str, Any] = serialize(self)
        if self.options == SeatOptions():
            fields.pop("options", None)
        return fields


def needs_tunnel(seat: Seat) -> bool:
    """Whether Jupyter is published on the node's loopback only."""
    return seat.binds["jupyter"] == "127.0.0.1"


def jupyter_url(seat: Seat, *, local: bool = False) -> str:
    """Return the address of a seat's Jupyter. `local`: for a browser on the node, which needs no tunnel."""
    if needs_tunnel(seat) and not local:
        return "http://127.0.0.1:8888/lab"
    return f"http://{seat.binds['jupyter']}:{seat.ports['jupyter']}/lab"


class SeatOwner(NamedTuple):
    """Whose seat it is. `name`: of the seat. `user`: the login inside. `keys`: lines of authorized_keys.

    `person`: the id in the roster, empty in a lab without one. `disk_limit`: bytes, None for no limit.
    """

    name: str
    user: str
    uid: int
    gid: int
    home: str
    keys: tuple[str, ...]
    limits: Limits
    person: str = ""
    environment: str = DEFAULT_ENVIRONMENT
    disk_limit: int | None = None


def free_ports(held: Mapping[str, int], wanted: Ports, taken: Iterable[int]) -> dict[ServiceName, int] | None:
    """Return the ports that the seat holds already, else the first free pair (ssh, jupyter); None if there is none."""
    if set(SERVICES) <= set(held) and min(held[name] for name in SERVICES) >= _FIRST_PORT:
        return {name: held[name] for name in SERVICES}
    pair = free_pair(wanted.first, wanted.last, set(taken))
    return None if pair is None else {"ssh": pair[0], "jupyter": pair[1]}


def seat_name(lab: str, user: str) -> str:
    """Return the usual name of a user's seat, which is also the name of its compose project.

    Labs ml and ml-lab share it for their users lab-anna and anna: `seat_name_on` gives them different names on a node.
    """
    return f"{lab}-{user}"


def seat_name_on(node: NodeFacts, lab: str, user: str) -> str:
    """Return the name of a user's seat on a node: the usual one, unless another lab has a seat of that name there.

    The other name is LAB_USER, which no second pair of lab and user has: the name of a lab has no `_`. A seat keeps its
    name until it is removed.
    """
    usual, unique = seat_name(lab, user), unique_name(lab, user)
    held = node.seat(usual)
    is_of_another = held is not None and held.lab not in {"", lab}
    return unique if is_of_another or node.seat(unique) is not None else usual


def seat_names_on(node: NodeFacts, lab: str, user: str) -> tuple[str, ...]:
    """Return the names of all seats of a lab on a node: that of its user, which may be absent, and all others.

    Those that people have started themselves are left out: only the broker of the node changes them.
    """
    others = (seat.name for seat in node.seats if seat.lab == lab and not seat.is_self_service)
    return tuple(dict.fromkeys((seat_name_on(node, lab, user), *others)))


def running_seat_names_on(node: NodeFacts, lab: str, user: str) -> tuple[str, ...]:
    """Return the names of the seats of a lab that are not stopped; that of its user, where there is none."""
    names = seat_names_on(node, lab, user)
    return tuple(name for name in names if (seat := node.seat(name)) and not seat.is_down) or names[:1]


def person_seat_name_on(node: NodeFacts, lab: str, person: str) -> str:
    """Return the name of the seat of a person of the roster, by their id: LAB_ID, see `seat_name_on`.

    A seat that the lab has set up there under the usual name keeps that.
    """
    usual, unique = seat_name(lab, person), unique_name(lab, person)
    held = node.seat(usual)
    is_kept = held is not None and held.lab == lab and node.seat(unique) is None
    return usual if is_kept else unique


def lab_owner(lab: Lab, facts: NodeFacts, keys: tuple[str, ...], home: str | None = None) -> SeatOwner:
    """Return the owner of the seats of a lab without a roster: the user of lab.yml."""
    seat = lab.seat
    name = seat_name_on(facts, lab.name, seat.user)
    place = home or f"{seat.homes}/{seat.user}"
    return SeatOwner(name, seat.user, seat.uid, seat.gid, place, keys, seat.limits, environment=seat.environment)


def seat_of(  # noqa: PLR0913  (a seat combines the lab, the node and the owner)
    lab: Lab, facts: NodeFacts, owner: SeatOwner, gpus: tuple[str, ...], *, host: str | None, shared: bool = False
) -> Seat | Problem:
    """Build the seat of an owner on a node. `gpus` are UUIDs; `host`: how Ansible connects to the node.

    Returns a Problem where no pair of ports or no subnet is free, or the node has no LAN address to publish on.
    """
    held, others = facts.seat(owner.name), [seat for seat in facts.seats if seat.name != owner.name]
    taken = [port for seat in others for port in seat.ports.values()]
    ports = free_ports(_own_ports(held, taken), lab.seat.ports, taken)
    if ports is None:
        return Problem(
            "no_free_port",
            f"every pair of ports from {lab.seat.ports.first} to {lab.seat.ports.last} is taken by another seat",
            "a seat publishes SSH and Jupyter on two ports of its own, and keeps them",
            "widen seat.ports in lab.yml, or remove a seat that is no longer used",
            facts.name,
        )
    subnet = free_subnet(_own_subnet(held, others), lab.seat.subnets, _taken_subnets(facts, owner.name))
    if subnet is None:
        return Problem(
            "no_free_subnet",
            f"each /{SEAT_PREFIX} of {', '.join(lab.seat.subnets)} overlaps a route or another seat's subnet",
            "each seat has a network of its own: the engine's own pools hold 31 networks only",
            "set seat.subnets in lab.yml to a private network that the lab does not use",
            facts.name,
        )
    binds = binds_on(lab, facts, host)
    if isinstance(binds, Problem):
        return binds
    capacity = choose_capacity(owner.limits, held.capacity if held else None, _capacity(facts))
    return Seat(
        name=owner.name,
        lab=lab.name,
        node=facts.name,
        person=owner.person,
        environment=owner.environment,
        user=owner.user,
        uid=owner.uid,
        gid=owner.gid,
        home=owner.home,
        gpus=gpus,
        shared=shared,
        gpu_driver=_gpu_driver(facts, gpus),
        ports=ports,
        binds=binds,
        subnet=subnet,
        authorized_keys=owner.keys,
        limits=build_limits(owner.limits, capacity),
        capacity=capacity,
        start_interval=has_start_interval(facts),
        options=seat_options(lab),
    )


def binds_on(lab: Lab, facts: NodeFacts, host: str | None) -> dict[ServiceName, str] | Problem:
    """Return the address of each service on a node, or why it has none. `host`: how Ansible connects to the node."""
    return _binds(lab, lan_address(facts.addresses, host)) or Problem(
        "no_lan_address",
        f"{facts.name} has no IPv4 address that a service could be published on",
        "lab.yml asks for `bind: lan`, and a service is never published on every address",
        "set ansible_host to the node's address in hosts.yml, or `bind: loopback` in lab.yml",
        facts.name,
    )


def has_start_interval(facts: NodeFacts) -> bool:
    """Whether the engine of a node accepts start_interval in a compose file."""
    return facts.engine is not None and _major(facts.engine.version) >= START_INTERVAL_SINCE


def _own_ports(held: RunningSeat | None, taken: Collection[int]) -> Mapping[str, int]:
    """Return the ports that a seat keeps: while it is stopped, another one may have got them after the term."""
    if held is None or (held.is_down and not {*held.ports.values()}.isdisjoint(taken)):
        return {}
    return held.ports


def _own_subnet(held: RunningSeat | None, others: Iterable[RunningSeat]) -> str:
    """Return the subnet that a seat keeps, by the same rule; empty if there is none."""
    if held is None or not held.subnet:
        return ""
    own = IPv4Network(held.subnet)
    is_taken = held.is_down and any(seat.subnet and own.overlaps(IPv4Network(seat.subnet)) for seat in others)
    return "" if is_taken else held.subnet


def _taken_subnets(facts: NodeFacts, name: str) -> Iterator[str]:
    """Yield the networks that a new subnet must not overlap; a stopped seat has a subnet, and no route to it."""
    yield from facts.routes
    yield from (seat.subnet for seat in facts.seats if seat.name != name and seat.subnet)


def with_current_node(seat: Seat, wanted: Limits, gpus: tuple[str, ...], facts: NodeFacts) -> Seat:
    """Return the seat for a new generation: with these GPUs, and with limits from what its node has now.

    `wanted`: the limits of its owner.
    """
    capacity = with_known(seat.capacity, _capacity(facts))
    limits, driver = build_limits(wanted, capacity), _gpu_driver(facts, gpus)
    return seat.model_copy(update={"limits": limits, "capacity": capacity, "gpus": gpus, "gpu_driver": driver})


def _capacity(facts: NodeFacts) -> Capacity:
    return facts.engine.capacity if facts.engine else Capacity()


def _binds(lab: Lab, lan: str | None) -> dict[ServiceName, str] | None:
    settings: dict[ServiceName, str] = {"jupyter": lab.services.jupyter.bind, "ssh": lab.services.ssh.bind}
    if lan is None and "lan" in settings.values():
        return None
    return {name: "127.0.0.1" if bind == "loopback" or lan is None else lan for name, bind in settings.items()}


def _gpu_driver(facts: NodeFacts, gpus: tuple[str, ...]) -> Literal["nvidia", "cdi"]:
    """Return `cdi` if CDI names each of the GPUs: it survives a daemon-reload, the legacy hook does not."""
    has_names = bool(gpus) and all(f"nvidia.com/gpu={uuid}" in facts.cdi_devices for uuid in gpus)
    return "cdi" if has_names else "nvidia"


def _major(version: str) -> int:
    head = version.split(".", 1)[0]
    return int(head) if re.fullmatch(r"[0-9]{1,9}", head) else 0
