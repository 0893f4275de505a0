"""The list of seats: who sits where, with which cards, and in which state."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from typing import Literal

from pydantic import Field

from provisioner.domain.lab.environments import is_default_environment
from provisioner.domain.lab.lock import Placement
from provisioner.domain.people.person import Person
from provisioner.domain.rollout.status import LabStatus, SeatStatus, leases_of
from provisioner.domain.values.model import Document, Value
from provisioner.domain.values.node import DiskUse, Lease, NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem

SEATS_SCHEMA: Literal["provisioner/seats/1"] = "provisioner/seats/1"

# healthy: all services are · starting: none is at fault, and not all are healthy yet · unhealthy: a service is at fault
# stopped: no service runs · absent: not set up yet · unknown: its node did not answer
SeatState = Literal["healthy", "starting", "unhealthy", "stopped", "absent", "unknown"]
SeatKind = Literal["", "self_service"]
_STOPPED = frozenset({"exited", "missing"})
_STARTING = frozenset({"healthy", "running"})


class Card(Value):
    """A GPU. `index`: NVML's on its node, for a MIG device INDEX.INSTANCE; empty: the node does not report it now."""

    uuid: str
    index: str = ""


class SeatEntry(Value):
    """One seat, or a person without one: then `seat` is None, and `node` is empty unless they were stopped there.

    `person` empty: the seat of a lab without a roster. `shared`: others use its cards, too. `since`: the day of its
    first set-up. `uid`: of its user. `disk`: what it used when it was measured last; None: never measured.
    `disk_limit`: that of its group, in bytes. `group`, `until`: as in the roster. `reason`: why it was stopped, or is
    to be, by the admin. `kind` self_service: its person has started it; `left_s`: seconds that are left of its lease,
    None without one. `environment`: what it runs; empty for the default one of a seat that its person has not started.
    """

    person: str = ""
    node: str = ""
    seat: str | None = None
    gpus: tuple[Card, ...] = ()
    shared: bool = False
    state: SeatState
    since: date | None = None
    uid: int | None = None
    disk: DiskUse | None = None
    disk_limit: int | None = None
    group: str = ""
    until: date | None = None
    reason: str = ""
    kind: SeatKind = ""
    left_s: int | None = None
    environment: str = ""


class SeatList(Document):
    """All seats of a lab in the order of its nodes, then those that people have started, then people without a seat.

    `unread`: nodes without a known seat, with their problems.
    """

    schema_: Literal["provisioner/seats/1"] = Field(default=SEATS_SCHEMA, alias="schema")
    lab: str
    seats: tuple[SeatEntry, ...]
    unread: dict[str, tuple[Problem, ...]] = {}


def build_seat_list(
    status: LabStatus,
    people: Sequence[Person],
    probed: Mapping[str, NodeFacts | Problem],
    places: Mapping[str, Placement],
) -> SeatList:
    """Build the list. `people`: those of the roster who have a seat on these nodes, or should have one.

    `places`: of people, as the lock remembers them.
    """
    rows = {person.id: person for person in people}
    cards = {card.uuid: card for facts in probed.values() if isinstance(facts, NodeFacts) for card in _cards(facts)}
    unread = {seat.node: seat.problems for seat in status.seats if seat.seat is None}
    stopped = {name: held for name, held in places.items() if held.stopped}
    reasons = {name: held.stopped for name, held in stopped.items()}
    entries = [_entry(seat, rows.get(seat.person), cards, reasons) for seat in status.seats if seat.seat is not None]
    entries += _self_service(status.lab, probed, cards)
    seated = {entry.person for entry in entries}
    waiting = [
        _without_seat(person, stopped.get(person.id), cards, unread) for person in people if person.id not in seated
    ]
    return SeatList(lab=status.lab, seats=(*entries, *waiting), unread=unread)


def _without_seat(
    person: Person, stopped: Placement | None, cards: Mapping[str, Card], unread: Collection[str]
) -> SeatEntry:
    entry = SeatEntry(
        person=person.id,
        state="unknown" if unread else "absent",
        group=person.group,
        until=person.until,
        environment=_shown(person.environment),
    )
    if stopped is None:
        return entry
    state: SeatState = "unknown" if stopped.node in unread else "stopped"
    gpus = tuple(cards.get(uuid, Card(uuid=uuid)) for uuid in stopped.gpus)
    return entry.model_copy(update={"node": stopped.node, "gpus": gpus, "state": state, "reason": stopped.stopped})


def _self_service(
    lab: str, probed: Mapping[str, NodeFacts | Problem], cards: Mapping[str, Card]
) -> Iterator[SeatEntry]:
    """Yield the seats that people have started themselves, by node and name, with and without a lease."""
    for node, facts in probed.items():
        if isinstance(facts, NodeFacts):
            leases = {lease.seat: lease for lease in leases_of(facts, lab)}
            seats = {seat.name: seat for seat in facts.seats if seat.is_self_service and seat.lab == lab}
            for name in sorted({*leases, *seats}):
                yield _own_entry(node, name, leases.get(name), seats.get(name), cards)


def _own_entry(
    node: str, name: str, lease: Lease | None, seat: RunningSeat | None, cards: Mapping[str, Card]
) -> SeatEntry:
    gpus = lease.gpus if lease else ()
    left = None if lease is None or lease.left_s is None else round(lease.left_s)
    return SeatEntry(
        person=(lease.person if lease else "") or (seat.person if seat else ""),
        node=node,
        seat=name,
        gpus=tuple(cards.get(uuid, Card(uuid=uuid)) for uuid in gpus),
        state=services_state(seat.services) if seat and seat.generation else "absent",
        since=seat.since if seat else None,
        uid=lease.uid if lease else seat.uid if seat else None,
        disk=seat.disk if seat else None,
        disk_limit=seat.disk_limit if seat else None,
        kind="self_service",
        left_s=left,
        environment=lease.environment if lease else "",
    )


def _entry(seat: SeatStatus, person: Person | None, cards: Mapping[str, Card], reasons: Mapping[str, str]) -> SeatEntry:
    return SeatEntry(
        person=seat.person,
        node=seat.node,
        seat=seat.seat,
        gpus=tuple(cards.get(uuid, Card(uuid=uuid)) for uuid in seat.gpus),
        shared=seat.shared,
        state=seat_state(seat),
        since=seat.since,
        uid=seat.uid,
        disk=seat.disk,
        disk_limit=seat.disk_limit,
        group=person.group if person else "",
        until=person.until if person else None,
        reason=reasons.get(seat.person, ""),
        environment=_shown(seat.environment),
    )


def _shown(environment: str) -> str:
    return "" if is_default_environment(environment) else environment


def seat_state(seat: SeatStatus) -> SeatState:
    """Return the state of a seat whose node answered, from its services."""
    return "absent" if seat.image is None else services_state(seat.services)


def services_state(services: Mapping[str, str]) -> SeatState:
    """Return the state of a seat that is set up, from the states of its services."""
    states = set(services.values())
    if states <= _STOPPED:
        return "stopped"
    if states <= _STARTING:
        return "healthy" if states == {"healthy"} else "starting"
    return "unhealthy"


def _cards(facts: NodeFacts) -> Iterator[Card]:
    for gpu in facts.gpus:
        if gpu.uuid is not None:
            yield Card(uuid=gpu.uuid, index=str(gpu.index) if gpu.instance is None else f"{gpu.index}.{gpu.instance}")
