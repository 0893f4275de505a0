"""What people may ask of their leases: each function returns the next state, without a file or a process."""

from __future__ import annotations

from typing import NamedTuple, Sequence

from ansible.module_utils.provisioner.lease.queue import (
    free_gpus,
    has_others_ahead,
    join,
    leave,
    offered_gpus,
    somebody_waits,
)
from ansible.module_utils.provisioner.lease.state import RUNS, Lease, LeaseState, Samples, SeatJob, Terms, Waiting

HOUR_S = 3600.0


class Wish(NamedTuple):
    """What a person asks for. `lease`: the name of a new lease. `kept`: GPUs that the seat had before, if any.

    `wait_s`: for how long they wait for GPUs; 0: not at all.
    """

    lease: str
    seat: str
    uid: int
    gpus: int
    hours: float
    terms: Terms
    request: str = ""
    kept: tuple[str, ...] = ()
    wait_s: float = 0.0


def grant(state: LeaseState, wish: Wish, pool: Sequence[str]) -> LeaseState | None:
    """Return the state with a pending lease and the job `up` of its seat; None where too few GPUs are free.

    The lease that the seat has already stays until its job has ended; a new one is not longer than what is left of it.
    """
    gpus = _choose(state, wish, pool)
    if gpus is None:
        return None
    older = state.of_seat(wish.seat)
    left = min([wish.hours * HOUR_S, wish.terms.longest_s, *(lease.left_s for lease in older)])
    grace = min([wish.terms.grace_s, *(lease.grace_s for lease in older)])
    released = next((lease.released for lease in older if lease.released), "")
    lease = Lease(wish.lease, wish.seat, wish.uid, gpus, "pending", left, wish.terms, wish.request, grace_s=grace)
    lease = lease._replace(released=released)
    job = SeatJob("up", f"{RUNS}{wish.lease}", wish.uid)
    return leave(state, wish.uid).with_lease(lease).with_job(wish.seat, job)


def _choose(state: LeaseState, wish: Wish, pool: Sequence[str]) -> tuple[str, ...] | None:
    """Return the GPUs for a wish: first those that the seat has, then those offered, then those it had before."""
    own = [gpu for lease in state.of_seat(wish.seat) for gpu in lease.gpus if gpu in pool]
    offered = offered_gpus(state, pool, wish.uid)
    free = offered if has_others_ahead(state, pool, wish.uid) else free_gpus(state, pool, wish.uid)
    before = [gpu for gpu in wish.kept if gpu in free]
    chosen = list(dict.fromkeys([*own, *offered, *before, *free]))[: wish.gpus]
    return tuple(chosen) if len(chosen) == wish.gpus else None


def wait(state: LeaseState, wish: Wish, now: float) -> LeaseState:
    """Return the state in which the person waits for GPUs. `now`: CLOCK_BOOTTIME."""
    return join(state, Waiting(wish.uid, wish.gpus, wish.hours, now, now, wish.wait_s))


def start_job(state: LeaseState, seat: str, kind: str, run: str, uid: int) -> LeaseState:
    """Return the state with a job of a seat that has no other one."""
    return state.with_job(seat, SeatJob(kind, run, uid))


def is_over(lease: Lease) -> bool:
    """Return whether a lease ends, so that nothing can prolong it."""
    return bool(lease.why) or lease.state == "stopping"


def renew(state: LeaseState, uid: int, hours: float) -> LeaseState | None:
    """Return the state in which at least `hours` are left of the leases of a person, if their groups allow as many.

    None while somebody else waits for GPUs, where the person has any. A lease that the admin has released stays so.
    """
    leases = [lease for lease in state.of_person(uid) if not is_over(lease) and not lease.released]
    if any(lease.gpus for lease in leases) and somebody_waits(state, uid):
        return None
    for lease in leases:
        state = state.with_lease(_renewed(lease, hours))
    return state


def _renewed(lease: Lease, hours: float) -> Lease:
    left = max(lease.left_s, min(hours * HOUR_S, lease.terms.longest_s))
    state = "pending" if lease.state == "pending" else "active"
    return lease._replace(left_s=left, state=state, grace_s=lease.terms.grace_s, noticed=0)


def keep_alive(state: LeaseState, uid: int, hours: float) -> LeaseState:
    """Return the state in which idle time does not end the leases of a person for so many hours."""
    for lease in state.of_person(uid):
        awake = min(hours * HOUR_S, lease.terms.longest_s)
        state = state.with_lease(lease._replace(awake_s=max(lease.awake_s, awake), samples=Samples()))
    return state


def end(state: LeaseState, leases: Sequence[Lease], why: str) -> LeaseState:
    """Return the state in which leases end, as soon as no job changes their seat."""
    for lease in leases:
        state = state.with_lease(lease._replace(why=lease.why or why))
    return state


def give_back(state: LeaseState, uid: int) -> LeaseState:
    """Return the state in which all leases of a person end, and they wait for nothing."""
    return end(leave(state, uid), state.of_person(uid), "down")
