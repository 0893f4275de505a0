"""What the admin may do to the leases of a seat: each function returns the next state, as in requests.py."""

from __future__ import annotations

from ansible.module_utils.provisioner.lease.queue import leave
from ansible.module_utils.provisioner.lease.requests import HOUR_S, end, is_over
from ansible.module_utils.provisioner.lease.state import Lease, LeaseState

ADMIN = "admin"  # why a lease ends that the admin has stopped


def release(state: LeaseState, seat: str, reason: str) -> LeaseState:
    """Return the state in which the time of a seat is over: its grace begins, which its person cannot prolong."""
    for lease in state.of_seat(seat):
        if not is_over(lease) and not lease.released:
            ended = lease._replace(left_s=0.0, grace_s=lease.terms.grace_s, noticed=0, released=reason)
            state = state.with_lease(ended)
    return state


def extend(state: LeaseState, seat: str, hours: float) -> LeaseState:
    """Return the state in which at least `hours` are left of a seat, whatever its group may have or who waits."""
    for lease in state.of_seat(seat):
        if not is_over(lease):
            state = state.with_lease(_extended(lease, hours))
    return state


def _extended(lease: Lease, hours: float) -> Lease:
    left = max(lease.left_s, hours * HOUR_S)
    state = "pending" if lease.state == "pending" else "active"
    return lease._replace(left_s=left, state=state, grace_s=lease.terms.grace_s, noticed=0, released="")


def stop(state: LeaseState, seat: str, reason: str) -> LeaseState:
    """Return the state in which a seat is to be stopped at once, and its person waits for nothing."""
    for lease in state.of_seat(seat):
        state = leave(state, lease.uid).with_lease(lease._replace(released=lease.released or reason))
    return end(state, state.of_seat(seat), ADMIN)
