"""The letter to a person of the roster: how to reach their seat. It holds no secret."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import date
from ipaddress import IPv4Address
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from provisioner.domain.lab.lab import Slug
from provisioner.domain.lab.lock import Placement
from provisioner.domain.people.person import Person
from provisioner.domain.rollout.report import Access
from provisioner.domain.rollout.status import LabStatus, SeatStatus
from provisioner.domain.values.line import one_line, printable
from provisioner.domain.values.model import Value
from provisioner.domain.values.node import GpuUuid
from provisioner.domain.values.problem import Problem

LETTERS_SCHEMA: Literal["provisioner/letters/1"] = "provisioner/letters/1"
UNSAFE = "unsafe_letter"  # the code of a letter that is not written because of its fields
_FORWARDED = "http://127.0.0.1:8888/lab"  # Jupyter's address on the user's machine while the tunnel is open
_MAX_CONTACT = 200
_PLAIN_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,30}")


def contact_text(text: str) -> str:
    """Return the text as one line of printable characters. Raises ValueError with a message for the user."""
    return one_line(text, _MAX_CONTACT)


def _reachable(text: str) -> str:
    address = IPv4Address(text)
    if address.is_loopback or address.is_unspecified or address.is_multicast:
        raise ValueError(f"{text} is no address at which another machine reaches the node")
    return text


# Lines of ssh's configuration are made of these: a space or a line feed in one would be another setting.
Line = Annotated[str, StringConstraints(min_length=1, max_length=128), AfterValidator(printable)]
Alias = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,79}$")]
LoginName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}$")]
HostAddress = Annotated[str, StringConstraints(max_length=15), AfterValidator(_reachable)]
HostKey = Annotated[str, StringConstraints(pattern=r"^ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI[A-Za-z0-9+/]{43}$")]
JumpHosts = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:,\[\]-]{0,512}$")]
JupyterUrl = Annotated[str, StringConstraints(pattern=r"^http://[0-9.]{7,15}:[0-9]{1,5}/lab$")]


class Letter(Value):
    """What a letter says. `alias`: the name of the seat for ssh; `jump`: jump hosts, without names of accounts.

    `jupyter`: the URL to open, without the token; `tunnel`: only while a port is forwarded by SSH. `gpus`: UUIDs of the
    seat's cards; `shared`: others use them, too. `contact` empty: the sender of the letter.
    """

    person: Line
    lab: Slug
    node: Line
    alias: Alias
    host: HostAddress
    port: Annotated[int, Field(ge=1, le=65535)]
    user: LoginName
    host_key: HostKey
    jump: JumpHosts = ""
    jupyter: JupyterUrl
    tunnel: bool
    gpus: tuple[GpuUuid, ...] = ()
    shared: bool = False
    until: date | None = None
    contact: str = ""


class Letters(NamedTuple):
    """The letter of each person by id, and why others have none. `unread`: nodes without a known seat, and why."""

    written: Mapping[str, Letter]
    missing: Mapping[str, Problem]
    unread: Mapping[str, tuple[Problem, ...]]


def letter_name(person: str) -> str:
    """Return the name of a person's files without its ending: the id, or where that is not plain, a part and its hash.

    Only the latter has a dot, so two ids never share a name.
    """
    if _PLAIN_ID.fullmatch(person):
        return person
    folded = re.sub(r"[^a-z0-9]+", "-", person.lower())[:16].strip("-") or "id"
    return f"{folded}.{hashlib.sha256(person.encode()).hexdigest()[:10]}"


def build_letters(
    people: Sequence[Person],
    status: LabStatus,
    jumps: Mapping[str, str | None],
    contact: str = "",
    places: Mapping[str, Placement] | None = None,
) -> Letters:
    """Build the letter of each person. `jumps`: the jump hosts of each node, see `InventoryHost`.

    `places`: of people, as the lock remembers them; who is stopped gets no letter.
    """
    stopped = {name: held for name, held in (places or {}).items() if held.stopped}
    seats = {seat.person: seat for seat in status.seats if seat.person}
    unread = {seat.node: seat.problems for seat in status.seats if seat.seat is None}
    # Who has moved may have two for some time: the one that has an address counts.
    seats |= {seat.person: seat for seat in status.seats if seat.person and seat.access}
    built = {
        person.id: _build_letter(person, seats[person.id], status.lab, jumps, contact)
        if person.id in seats
        else _no_seat(person, len(unread))
        for person in people
    }
    built |= {person.id: _is_stopped(person, stopped[person.id]) for person in people if person.id in stopped}
    return Letters(
        {name: found for name, found in built.items() if isinstance(found, Letter)},
        {name: found for name, found in built.items() if isinstance(found, Problem)},
        unread,
    )


def _build_letter(
    person: Person, seat: SeatStatus, lab: str, jumps: Mapping[str, str | None], contact: str
) -> Letter | Problem:
    if seat.access is None or seat.image is None:
        return _not_there(person, seat)
    try:
        return Letter(
            person=person.id,
            lab=lab,
            node=seat.node,
            alias=seat.seat,
            gpus=seat.gpus,
            shared=seat.shared,
            until=person.until,
            contact=contact,
            **_connection(seat.access, without_accounts(jumps.get(seat.node) or "")),
        )
    except ValidationError as error:
        return _unsafe(person, seat, error)


def _connection(access: Access, jump: str) -> dict[str, str | int | bool]:
    """Return the fields of a letter about the connection. Behind a jump host, Jupyter is reached by a tunnel only."""
    tunnel = bool(access.tunnel or jump)
    return {
        "host": access.host,
        "port": access.port,
        "user": access.user,
        "host_key": access.host_key,
        "jump": jump,
        "jupyter": _FORWARDED if tunnel else access.jupyter,
        "tunnel": tunnel,
    }


def without_accounts(jump: str) -> str:
    """Return jump hosts without account names: those in the inventory are the admin's."""
    return ",".join(host.rpartition("@")[2] for host in jump.split(","))


def wrong_fields(error: ValidationError) -> str:
    """Return the names of fields, and no values: one that is not what it should be may be a secret."""
    return ", ".join(dict.fromkeys(str(item["loc"][0]) for item in error.errors()))


def _is_stopped(person: Person, held: Placement) -> Problem:
    return Problem(
        "seat_stopped",
        f"{person.id}: stopped on {held.node}: {held.stopped}",
        "a seat that is stopped cannot be reached",
        f"`provision seats start LAB {person.id}`, then write the letters again",
        held.node,
    )


def _no_seat(person: Person, unread: int) -> Problem:
    others = f"; nodes without a known seat: {unread}" if unread else ""
    return Problem(
        "no_seat",
        f"{person.id}: no seat on the nodes that were read{others}",
        "a letter has the address and the host key of a seat",
        "set the seats up with `provision rollout`, then write the letters again",
    )


def _not_there(person: Person, seat: SeatStatus) -> Problem:
    return Problem(
        "seat_not_there",
        f"{person.id}: the seat on {seat.node} is planned, and not set up yet",
        "a letter has the host key of a seat, which its node makes when the seat is set up",
        "set it up with `provision rollout`, then write the letters again",
        seat.node,
    )


def _unsafe(person: Person, seat: SeatStatus, error: ValidationError) -> Problem:
    return Problem(
        UNSAFE,
        f"{person.id}: not what they should be: {wrong_fields(error)}",
        "its lines go into the configuration of ssh, so each value must be what it is said to be",
        "set services.ssh.bind in lab.yml to `lan`; `provision status` shows what the node reports of the seat",
        seat.node,
    )
