"""The state of all leases of a node, as one frozen value, and its JSON form (provisioner/leases/1).

Times are seconds. Lengths (`left_s`) are counted down; moments are those of CLOCK_BOOTTIME, which goes on while a
machine sleeps, and which cannot be set.
"""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple

SCHEMA = "provisioner/leases/1"
RUNS = "me-"  # the beginning of the names of all runs of the broker

# pending: its job starts the seat. active, ending: the seat runs. stopping: the seat is to be stopped.
LEASE_STATES = ("pending", "active", "ending", "stopping")
CARD_STATES = ("free", "foreign", "unhealthy", "unknown")
JOB_KINDS = ("up", "resume", "upgrade", "keys", "rotate_token", "stop")


class Moment(NamedTuple):
    """When something happens: the boot, and CLOCK_BOOTTIME in it."""

    boot_id: str
    boottime: float


class Samples(NamedTuple):
    """One bit for each of the last minutes, the latest is the lowest one: 1 where the seat was idle."""

    bits: int = 0
    length: int = 0


class Terms(NamedTuple):
    """What the group of a person says about a lease: the longest time, and when idle time ends it (0: never)."""

    longest_s: float
    idle_s: float
    grace_s: float


class Lease(NamedTuple):
    """GPUs of a seat for some time. A seat has two leases while a job gives it other GPUs.

    `grace_s`: what is left of the time after the end. `awake_s`: for so long idle time does not end the lease.
    `noticed`: how many of its notices were shown. `why`: why it ends, empty while it does not. `released`: the reason
    for which the admin has ended its time; its person cannot prolong it then.
    """

    id: str
    seat: str
    uid: int
    gpus: tuple[str, ...]
    state: str
    left_s: float
    terms: Terms
    request: str = ""
    kind: str = "leased"
    grace_s: float = 0.0
    awake_s: float = 0.0
    noticed: int = 0
    why: str = ""
    samples: Samples = Samples()
    released: str = ""


class Card(NamedTuple):
    """What was last seen of a GPU. `pid`, `user`: of a process on it that is not in the seat which has it."""

    state: str = "unknown"
    pid: int = 0
    user: str = ""


class Waiting(NamedTuple):
    """The place of a person in the queue. `left_s`: for how long they wait at most."""

    uid: int
    gpus: int
    hours: float
    since: float
    seen: float
    left_s: float


class Held(NamedTuple):
    """A GPU that is offered to a person."""

    uid: int
    left_s: float


class SeatJob(NamedTuple):
    """The job that changes a seat now. `run`: the name of its files. `tries`: how often it was started."""

    kind: str
    run: str
    uid: int
    tries: int = 0


class LeaseState(NamedTuple):
    """Everything that is known of leases. `sampled`: when use was last looked at, in this boot.

    `tries`: failed attempts to start a seat again, by seat. `down`: the seats with a lease that were seen not to run,
    in the order in which they are started again.
    """

    seq: int = 0
    tick: Moment = Moment("", 0.0)
    sampled: float = 0.0
    leases: Mapping[str, Lease] = {}
    cards: Mapping[str, Card] = {}
    queue: tuple[Waiting, ...] = ()
    held: Mapping[str, Held] = {}
    jobs: Mapping[str, SeatJob] = {}
    tries: Mapping[str, int] = {}
    down: tuple[str, ...] = ()

    def of_seat(self, seat: str) -> list[Lease]:
        """Return the leases of a seat, the older one first."""
        return [lease for lease in self.leases.values() if lease.seat == seat]

    def of_person(self, uid: int) -> list[Lease]:
        """Return the leases of a person, the older one first."""
        return [lease for lease in self.leases.values() if lease.uid == uid]

    def holder(self, gpu: str) -> Lease | None:
        """Return the lease that has a GPU, None if none has."""
        return next((lease for lease in self.leases.values() if gpu in lease.gpus), None)

    def place(self, uid: int) -> Waiting | None:
        """Return the place of a person in the queue, None without one."""
        return next((place for place in self.queue if place.uid == uid), None)

    def with_lease(self, lease: Lease) -> LeaseState:
        """Return the state with a lease that is new or has changed."""
        return self._replace(leases={**self.leases, lease.id: lease})

    def without(self, *leases: Lease) -> LeaseState:
        """Return the state without these leases."""
        ended = {lease.id for lease in leases}
        return self._replace(leases={name: lease for name, lease in self.leases.items() if name not in ended})

    def with_job(self, seat: str, job: SeatJob | None) -> LeaseState:
        """Return the state with another job of a seat, None for no job. Whether the seat runs is not known any more."""
        others = {name: other for name, other in self.jobs.items() if name != seat}
        down = tuple(name for name in self.down if name != seat)
        return self._replace(jobs={**others, seat: job} if job else others, down=down)


def dump(state: LeaseState) -> dict[str, Any]:
    """Return the JSON form."""
    return {
        "schema": SCHEMA,
        "seq": state.seq,
        "tick": state.tick._asdict(),
        "sampled": state.sampled,
        "leases": {name: _dump_lease(lease) for name, lease in state.leases.items()},
        "cards": {gpu: card._asdict() for gpu, card in state.cards.items()},
        "queue": [place._asdict() for place in state.queue],
        "held": {gpu: held._asdict() for gpu, held in state.held.items()},
        "jobs": {seat: job._asdict() for seat, job in state.jobs.items()},
        "tries": dict(state.tries),
        "down": list(state.down),
    }


def _dump_lease(lease: Lease) -> dict[str, Any]:
    samples = {"bits": f"{lease.samples.bits:x}", "length": lease.samples.length}
    words = {name: value for name, value in lease._asdict().items() if name != "id"}
    return {**words, "gpus": list(lease.gpus), "terms": lease.terms._asdict(), "samples": samples}


def load(found: Any) -> LeaseState:
    """Return the state from its JSON form. Raises ValueError, KeyError, TypeError or AttributeError if it is none."""
    if found["schema"] != SCHEMA:
        raise ValueError(f"its schema is {found['schema']!r}")
    state = LeaseState(
        seq=int(found["seq"]),
        tick=Moment(str(found["tick"]["boot_id"]), float(found["tick"]["boottime"])),
        sampled=float(found["sampled"]),
        leases={str(name): _load_lease(str(name), lease) for name, lease in found["leases"].items()},
        cards={str(gpu): Card(**card) for gpu, card in found["cards"].items()},
        queue=tuple(Waiting(**place) for place in found["queue"]),
        held={str(gpu): Held(**held) for gpu, held in found["held"].items()},
        jobs={str(seat): SeatJob(**job) for seat, job in found["jobs"].items()},
        tries={str(seat): int(tries) for seat, tries in found["tries"].items()},
        down=tuple(map(str, found.get("down", ()))),  # brokers before this one have written none
    )
    _check(state)
    return state


def _load_lease(name: str, found: dict[str, Any]) -> Lease:
    samples = Samples(int(found["samples"]["bits"], 16), int(found["samples"]["length"]))
    terms, gpus = Terms(**found["terms"]), tuple(map(str, found["gpus"]))
    return Lease(**{**found, "id": name, "gpus": gpus, "terms": terms, "samples": samples})


def _check(state: LeaseState) -> None:
    """Raise ValueError where a word is not one of those that this program writes."""
    words: list[tuple[str, tuple[str, ...]]] = [(lease.state, LEASE_STATES) for lease in state.leases.values()]
    words += [(card.state, CARD_STATES) for card in state.cards.values()]
    words += [(job.kind, JOB_KINDS) for job in state.jobs.values()]
    unknown = [word for word, known in words if word not in known]
    if unknown:
        raise ValueError(f"it has the unknown word {unknown[0]!r}")
