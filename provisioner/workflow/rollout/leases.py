"""Seats that people have started themselves: read them, change their leases, and bring them to a new version.

They are no steps of a plan. A rollout treats a lease as it treats work: it is left alone, waited for, or ended for a
reason.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import NamedTuple, Protocol

from provisioner.domain.rollout.busy import WhenBusy
from provisioner.domain.rollout.gpu_usage import GpuUsage, NodeGpuUse, person_of
from provisioner.domain.rollout.leases import (
    NO_SELF_SERVICE,
    BrokerAnswer,
    BrokerRequest,
    ChangedLease,
    LeasedSeat,
)
from provisioner.domain.rollout.report import WORST_FIRST, NodeRecord, SeatRecord, build_node_record, without_record
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Host, StopRequested, SupportsBrokers

UPGRADE_SECONDS = 7200.0  # that a rollout follows upgrades which it has forced; a seat takes about a minute
_AGAIN = frozenset({"node_occupied", "seat_changing"})  # refusals of a broker that pass by
Key = tuple[str, str]  # node and seat


class UsageFleet(SupportsBrokers, Protocol):
    """The nodes of a lab and their brokers."""

    def hosts(self) -> Sequence[Host]:
        """Return the nodes that the inventory and its limit name, in the order of the inventory."""
        ...


class Pause(NamedTuple):
    """How to wait. `clock` and `sleep` are in seconds; `every`: between two looks. `stop`: whether to end at once.

    `note` gets a line that says what is waited for, once.
    """

    clock: Callable[[], float]
    sleep: Callable[[float], None]
    stop: StopRequested
    note: Callable[[str], None]
    every: float = 30.0


class Leases(NamedTuple):
    """The seats by node; `unread`: why those of a node are not known now. Nodes without self-service are in neither."""

    seats: Mapping[str, tuple[LeasedSeat, ...]]
    unread: Mapping[str, Problem]

    def outdated(self) -> dict[Key, LeasedSeat]:
        """Return the seats that run with an older version than the published one."""
        return {(node, seat.seat): seat for node, seats in self.seats.items() for seat in seats if seat.is_outdated}

    def by_name(self) -> dict[Key, LeasedSeat]:
        """Return all seats."""
        return {(node, seat.seat): seat for node, seats in self.seats.items() for seat in seats}


def read_leases(fleet: SupportsBrokers, lab: str, nodes: Sequence[str]) -> Leases:
    """Ask the broker of each node for the seats of this lab."""
    answers = fleet.ask_brokers({node: [BrokerRequest(verb="seats")] for node in nodes})
    found, unread = split_answers({node: answers[node] for node in nodes})
    seats = {node: tuple(seat for seat in answer.seats if seat.lab == lab) for node, answer in found.items()}
    return Leases(seats, unread)


def split_answers(
    answers: Mapping[str, tuple[BrokerAnswer, ...] | Problem],
) -> tuple[dict[str, BrokerAnswer], dict[str, Problem]]:
    """Return the first answer of each node, and the problems of the others; nodes without self-service are in neither.

    A problem names its node.
    """
    found: dict[str, BrokerAnswer] = {}
    unread: dict[str, Problem] = {}
    for node, answer in answers.items():
        problem = answer if isinstance(answer, Problem) else answer[0].problem
        if not isinstance(answer, Problem) and problem is None:
            found[node] = answer[0]
        elif problem is not None and problem.code != NO_SELF_SERVICE:
            unread[node] = problem.model_copy(update={"node": node})
    return found, unread


def read_gpu_usage(fleet: UsageFleet, lab: str, since: date | None) -> GpuUsage:
    """Ask all nodes for the use of their GPUs by leases of this lab, from the day `since` on."""
    nodes = [host.name for host in fleet.hosts()]
    answers = fleet.ask_brokers({node: [BrokerRequest(verb="usage", since=since)] for node in nodes})
    found, unread = split_answers({node: answers[node] for node in nodes})
    rows = [
        NodeGpuUse(node=node, **row.model_dump())
        for node, answer in found.items()
        if answer.lab == lab
        for row in answer.rows
    ]
    rows.sort(key=lambda row: (person_of(row), nodes.index(row.node), row.gpu))
    return GpuUsage(lab=lab, since=since, rows=tuple(rows), unread=unread)


def change_leases(
    fleet: SupportsBrokers,
    seats: Sequence[tuple[str, LeasedSeat]],
    build: Callable[[LeasedSeat], BrokerRequest],
) -> tuple[ChangedLease, ...]:
    """Send a request about each of the seats (node, seat), and return what became of them, in the same order."""
    wanted: dict[str, list[LeasedSeat]] = {}
    for node, seat in seats:
        wanted.setdefault(node, []).append(seat)
    answers = fleet.ask_brokers({node: list(map(build, some)) for node, some in wanted.items()})
    changed: dict[Key, ChangedLease] = {}
    for node, some in wanted.items():
        found = answers[node]
        each = [BrokerAnswer(problem=found)] * len(some) if isinstance(found, Problem) else found
        for seat, answer in zip(some, each, strict=True):
            changed[node, seat.seat] = ChangedLease(node=node, seat=answer.seat or seat, problem=answer.problem)
    return tuple(changed[node, seat.seat] for node, seat in seats)


def settle_leases(
    fleet: SupportsBrokers, lab: str, nodes: Sequence[str], when_busy: WhenBusy, pause: Pause
) -> dict[str, NodeRecord]:
    """Treat the leases of seats whose environment has a newer version as `when_busy` says. Call it after publishing.

    `defer`: they stay; the broker shows their people that there is a new version. `wait`: until their leases have
    ended, or their people have upgraded them, or the time is over. `force`: they are upgraded now, and their people
    read the reason. Return a record for each node that had such a seat, or was not read: `deferred` with the code
    `leased`, `committed`, `failed`, or `unchanged` for a seat whose lease has ended.
    """
    leases = read_leases(fleet, lab, nodes)
    begun = leases.outdated()
    forced = _Forced(fleet, when_busy.reason)
    length = {"defer": 0.0, "wait": float(when_busy.seconds), "force": UPGRADE_SECONDS}[when_busy.policy]
    end, has_noted = pause.clock() + length, False
    while left := {**leases.outdated(), **forced.under_way(leases)}:
        if when_busy.policy == "force":
            forced.upgrade(leases)
            left = {key: seat for key, seat in left.items() if key not in forced.ended}
        rest = end - pause.clock()
        if not left or rest <= 0 or pause.stop():
            break
        if not has_noted:
            pause.note(f"waiting for seats with a lease: {', '.join(sorted({seat for _, seat in left}))}")
            has_noted = True
        pause.sleep(min(pause.every, rest))
        leases = _read_again(fleet, lab, nodes, leases)
    return _records(begun, leases, forced)


def with_leases(records: Sequence[NodeRecord], leases: Mapping[str, NodeRecord]) -> tuple[NodeRecord, ...]:
    """Return the records of a report with the outcome of `settle_leases`: the worse state, all problems, and counts."""
    return tuple(_joined(record, leases[record.node]) if record.node in leases else record for record in records)


def _joined(record: NodeRecord, own: NodeRecord) -> NodeRecord:
    changes = {
        "state": min(record.state, own.state, key=WORST_FIRST.index),
        "problems": tuple(dict.fromkeys((*record.problems, *own.problems))),
        "seats": (*record.seats, *(seat for seat in own.seats if seat.state != "unchanged")),
        "counts": dict(Counter(record.counts) + Counter(seat.state for seat in own.seats)),
    }
    return record.model_copy(update=changes)


def _read_again(fleet: SupportsBrokers, lab: str, nodes: Sequence[str], before: Leases) -> Leases:
    """Read the seats again; those of a node that does not answer now are taken as they were."""
    found = read_leases(fleet, lab, nodes)
    kept = {node: before.seats[node] for node in found.unread if node in before.seats}
    return Leases({**kept, **found.seats}, found.unread)


class _Forced:
    """The upgrades that a run has forced. `ended`: those that are over and have not succeeded, and why."""

    def __init__(self, fleet: SupportsBrokers, reason: str) -> None:
        self._fleet, self._reason = fleet, reason
        self._begun: set[Key] = set()
        self.ended: dict[Key, tuple[Problem, ...]] = {}

    def under_way(self, leases: Leases) -> dict[Key, LeasedSeat]:
        """Return the seats that are being upgraded."""
        return {key: seat for key, seat in leases.by_name().items() if key in self._begun and seat.job == "upgrade"}

    def upgrade(self, leases: Leases) -> None:
        """Ask for the upgrade of each outdated seat that was not asked for; note which of the others have failed."""
        known = {key: seat for key, seat in leases.outdated().items() if key[0] not in leases.unread}
        outdated = {key: seat for key, seat in known.items() if key not in self.ended and not seat.job}
        for key in outdated.keys() & self._begun:
            ended = outdated[key].ended
            self.ended[key] = (ended.problems if ended else ()) or (_not_upgraded(*key),)
        wanted = [(node, seat) for (node, name), seat in outdated.items() if (node, name) not in self._begun]
        for changed in change_leases(self._fleet, wanted, self._request):
            key = (changed.node, changed.seat.seat)
            if changed.problem is None:
                self._begun.add(key)
            elif changed.problem.code not in _AGAIN:
                self.ended[key] = (changed.problem,)

    def _request(self, seat: LeasedSeat) -> BrokerRequest:
        return BrokerRequest(verb="upgrade_seat", seat=seat.seat, reason=self._reason)


def _records(begun: Mapping[Key, LeasedSeat], leases: Leases, forced: _Forced) -> dict[str, NodeRecord]:
    """Return a record for each node of a seat that was outdated, and for each that was not read."""
    now = leases.by_name()
    by_node: dict[str, list[SeatRecord]] = {}
    for node, name in begun:
        if node not in leases.unread:
            by_node.setdefault(node, []).append(_record(node, name, now.get((node, name)), forced))
    records = {node: build_node_record(node, seats) for node, seats in by_node.items()}
    return records | {node: without_record(node, problem) for node, problem in leases.unread.items()}


def _record(node: str, name: str, seat: LeasedSeat | None, forced: _Forced) -> SeatRecord:
    if problems := forced.ended.get((node, name)):
        return SeatRecord(seat=name, state="failed", problems=problems)
    if seat is None or not seat.has_lease:
        return SeatRecord(seat=name, state="unchanged")
    if seat.is_outdated:
        return SeatRecord(seat=name, state="deferred", problems=(_leased(node, seat),))
    return SeatRecord(seat=name, state="committed")


def _leased(node: str, seat: LeasedSeat) -> Problem:
    until = f", until {seat.until:%Y-%m-%d %H:%M %Z}" if seat.until else ""
    return Problem(
        "leased",
        f"{node}: {seat.seat} has a lease{until}, and runs with the version {seat.version} of {seat.environment}",
        "a new version restarts what runs in the seat; its person sees that there is one",
        "it gets the new version when it is started next, or when its person runs `provision me upgrade --now`; to end"
        " what runs: --when-busy force --reason TEXT",
        node,
    )


def _not_upgraded(node: str, seat: str) -> Problem:
    return Problem(
        "not_upgraded",
        f"{node}: the upgrade of {seat} has ended, and it runs with the version of before",
        "the broker returns a seat that does not start with a new version to the one of before",
        f"see what its job says: provision seats list LAB --limit {node} --json, and the log of the broker there",
        node,
    )
