"""Which GPUs are free, and who waits for them: first come, first served, one place a person.

A free GPU is held for the first one in the queue, and offered for OFFER_S. Who does not ask again loses the place.
"""

from __future__ import annotations

import itertools
from typing import Iterable, Iterator

from ansible.module_utils.provisioner.lease.state import Card, Held, LeaseState, Waiting

OFFER_S = 900.0
UNPOLLED_S = 60.0


def free_gpus(state: LeaseState, pool: Iterable[str], uid: int | None = None) -> list[str]:
    """Return the GPUs of the pool that no person has, in the order of the pool.

    Those that are held for this person count as free, those that are held for others do not.
    """
    leased = {gpu for lease in state.leases.values() for gpu in lease.gpus}
    held = {gpu for gpu, holder in state.held.items() if holder.uid != uid}
    return [gpu for gpu in pool if state.cards.get(gpu, Card()).state == "free" and gpu not in leased | held]


def working_gpus(state: LeaseState, pool: Iterable[str]) -> list[str]:
    """Return the GPUs of the pool that are not known to be broken, free or not."""
    return [gpu for gpu in pool if state.cards.get(gpu, Card()).state != "unhealthy"]


def offered_gpus(state: LeaseState, pool: Iterable[str], uid: int) -> list[str]:
    """Return the GPUs that are held for this person and still free."""
    return [gpu for gpu in free_gpus(state, pool, uid) if gpu in state.held]


def position(state: LeaseState, uid: int) -> int:
    """Return the place of a person in the queue, from 1; 0 without one."""
    return next((number for number, place in enumerate(state.queue, 1) if place.uid == uid), 0)


def has_others_ahead(state: LeaseState, pool: Iterable[str], uid: int) -> bool:
    """Return whether others wait who came before this person, and to whom not all of their GPUs are offered yet."""
    pool = tuple(pool)
    ahead = itertools.takewhile(lambda place: place.uid != uid, state.queue)
    return any(len(offered_gpus(state, pool, place.uid)) < place.gpus for place in ahead)


def somebody_waits(state: LeaseState, uid: int) -> bool:
    """Return whether anybody but this person waits for a GPU."""
    return any(place.uid != uid for place in state.queue)


def join(state: LeaseState, wanted: Waiting) -> LeaseState:
    """Return the state with a place for a person: a new one is the last, another request keeps the place."""
    held = state.place(wanted.uid)
    if held is None:
        return state._replace(queue=(*state.queue, wanted))
    kept = wanted._replace(since=held.since)
    return state._replace(queue=tuple(kept if place.uid == wanted.uid else place for place in state.queue))


def keep_place(state: LeaseState, uid: int, now: float) -> LeaseState:
    """Return the state in which a person who waits has asked again at `now` (CLOCK_BOOTTIME)."""
    queue = (place._replace(seen=now) if place.uid == uid else place for place in state.queue)
    return state._replace(queue=tuple(queue))


def leave(state: LeaseState, uid: int) -> LeaseState:
    """Return the state without the place of a person, and without what is held for them."""
    queue = tuple(place for place in state.queue if place.uid != uid)
    return state._replace(queue=queue, held={gpu: held for gpu, held in state.held.items() if held.uid != uid})


def pass_time(state: LeaseState, elapsed: float, *, is_new_boot: bool) -> LeaseState:
    """Return the state after `elapsed` seconds, without the places whose time is over, or who no longer ask.

    After a boot everybody who waits keeps the place, and has UNPOLLED_S to ask again.
    """
    now = state.tick.boottime
    queue = (place._replace(left_s=place.left_s - elapsed) for place in state.queue)
    if is_new_boot:
        queue = (place._replace(seen=now) for place in queue)
    held = {gpu: one._replace(left_s=one.left_s - elapsed) for gpu, one in state.held.items()}
    state = state._replace(queue=tuple(queue), held=held)
    for uid in set(_gone(state, now)):
        state = leave(state, uid)
    return state


def _gone(state: LeaseState, now: float) -> Iterator[int]:
    """Yield the people who wait no longer."""
    yield from (place.uid for place in state.queue if place.left_s <= 0 or now - place.seen > UNPOLLED_S)
    yield from (held.uid for held in state.held.values() if held.left_s <= 0)
    waiting = {place.uid for place in state.queue}
    yield from (held.uid for held in state.held.values() if held.uid not in waiting)


def offer(state: LeaseState, pool: Iterable[str]) -> LeaseState:
    """Return the state in which free GPUs are held for those who wait, in their order.

    No one is passed over: while there are too few for the first one, the others wait, too.
    """
    pool = tuple(pool)
    for place in state.queue:
        missing = place.gpus - len(offered_gpus(state, pool, place.uid))
        free = free_gpus(state, pool)
        if missing > len(free):
            return state
        new = {gpu: Held(place.uid, OFFER_S) for gpu in free[: max(missing, 0)]}
        state = state._replace(held={**state.held, **new})
    return state
