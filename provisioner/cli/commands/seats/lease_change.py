"""What release, extend and stop share: the seats that people have started are found, confirmed and changed."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from provisioner.adapters.lab.directory import LabDirectory
from provisioner.adapters.state.journal import open_run
from provisioner.adapters.user import holder
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.options import LeaseOptions
from provisioner.cli.run_context import OpenRun
from provisioner.cli.wiring import open_fleet
from provisioner.console.leases import lease_change_view
from provisioner.domain.rollout.leases import LEASE_CHANGE_SCHEMA, BrokerRequest, LeaseChange, LeasedSeat
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.spelling import did_you_mean
from provisioner.workflow.rollout.leases import Leases, change_leases, read_leases


class WantedChange(NamedTuple):
    """A change of the leases of some people. `request`: without the seat, which is added for each one.

    `question` gets the seats as text, and asks for confirmation.
    """

    people: Sequence[str]
    request: BrokerRequest
    question: Callable[[str], str]


def change_lease(directory: LabDirectory, wanted: WantedChange, options: LeaseOptions) -> int:
    """Ask the nodes for the seats of these people, confirm, change all of them, report. Return the exit code.

    Raises ProblemError (usage) where every node answered and a person has no seat with a lease.
    """
    output, request = options.output, wanted.request
    run = OpenRun.of(open_run(directory.lab.name), output)
    with open_fleet(directory, options.ansible, output.verbose, run.on_event) as fleet:
        with run.progress():
            leases = read_leases(fleet, directory.lab.name, [host.name for host in fleet.hosts()])
        seats = _find_seats(leases, wanted.people, str(directory.path))
        if seats and not (options.yes or output.confirm(wanted.question(_names(seats)))):
            output.note("Nothing was changed.")
            return FAILED
        run.on_event(_on_record(wanted))
        with run.progress():
            changed = change_leases(fleet, seats, lambda seat: request.model_copy(update={"seat": seat.seat}))
    change = LeaseChange(
        lab=directory.lab.name,
        verb=request.verb,
        reason=request.reason or "",
        seats=changed,
        unread=dict(leases.unread),
    )
    output.document(LEASE_CHANGE_SCHEMA, change)
    output.show(lease_change_view(change))
    return DONE if change.done else FAILED


def _find_seats(leases: Leases, people: Sequence[str], lab: str) -> list[tuple[str, LeasedSeat]]:
    """Return the seats with a lease of these people, on all nodes that answered."""
    leased = [(node, seat) for node, seats in leases.seats.items() for seat in seats if seat.has_lease]
    known = {seat.person for _, seat in leased}
    missing = [person for person in people if person not in known]
    if missing and not leases.unread:
        raise ProblemError([_no_lease(person, sorted(known), lab) for person in missing], "usage")
    return [(node, seat) for node, seat in leased if seat.person in people]


def _names(seats: Sequence[tuple[str, LeasedSeat]]) -> str:
    return ", ".join(f"{seat.person} on {node}" for node, seat in seats)


def _on_record(wanted: WantedChange) -> Event:
    """Return the event that keeps who asked for the change, and why."""
    request, people = wanted.request, ", ".join(wanted.people)
    data = {
        "verb": request.verb,
        "people": list(wanted.people),
        "hours": request.hours,
        "reason": request.reason,
        "holder": holder(),
    }
    return Event(phase="plan", kind="note", text=f"{request.verb} {people}: {request.reason}", data=data)


def _no_lease(person: str, known: Sequence[str], lab: str) -> Problem:
    return Problem(
        "no_such_person",
        f'"{person}" has no seat with a lease{did_you_mean(person, known)}',
        "seats with a lease are found by the accounts of their people",
        f"see `provision seats list {lab}`; of people in the roster: seats stop, seats move",
    )
