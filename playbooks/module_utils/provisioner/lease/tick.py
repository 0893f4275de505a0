"""What time and the ends of jobs do to leases. The order of an end: notices, grace, stop; then the lease is freed."""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple, Sequence, Tuple

from ansible.module_utils.provisioner.lease.queue import offer, pass_time
from ansible.module_utils.provisioner.lease.requests import end, is_over
from ansible.module_utils.provisioner.lease.state import RUNS, Card, Lease, LeaseState, Moment, Samples, SeatJob, Terms

MINUTE_S = 60.0
NOTICE_MINUTES = (60, 10, 0)  # before the end; at 0 the grace begins
IDLE_SHARE = 0.95  # of the minutes
RESUMES_AT_ONCE = 4  # after a boot all seats are down; ends are never delayed
MOST_TRIES = 3  # to start a seat again that does not run, and to carry out a job whose process was killed
ADOPTED_S = 3600.0
ADOPTED_TERMS = Terms(86400.0, 0.0, 600.0)
# After these, nothing of what a job was to start runs.
NOTHING_STARTED = ("failed", "rolled_back", "deferred", "stale", "unchanged")


class Seen(NamedTuple):
    """What was seen of the node. `running`: the seats that run; None where that is not known.

    `idle`: for each seat, whether it is not in use; a seat that is missing counts as used. `own`: uid and GPUs of all
    self-service seats that run. `others`: seats that run and are the control machine's. `used`: GPUs that compute, or
    on which a process is. `kernels`: what those of each self-service seat do, as docker/kernels.py describes them.
    """

    cards: Mapping[str, Card] = {}
    running: frozenset[str] | None = None
    idle: Mapping[str, bool] = {}
    own: Mapping[str, tuple[int, tuple[str, ...]]] = {}
    others: frozenset[str] = frozenset()
    used: frozenset[str] = frozenset()
    kernels: Mapping[str, Any] = {}


class Action(NamedTuple):
    """What follows for a seat: its job is to be started (`job`), or its notice to be shown (`notice`)."""

    kind: str
    seat: str
    minutes: int = 0


Step = Tuple[LeaseState, Tuple[Action, ...]]


def tick(state: LeaseState, moment: Moment, seen: Seen | None, pool: Sequence[str]) -> Step:
    """Return the state at a moment, and what is to be done.

    `seen`: once a minute; None in between, when a seat that could not be stopped is not stopped again.
    """
    state = advance(state, moment)
    if seen is not None:
        state = _adopt(_with_samples(state._replace(cards=dict(seen.cards)), seen), seen)
        state = _note_down(state, seen)
    actions: list[Action] = []
    for seat in sorted({lease.seat for lease in state.leases.values()} - set(state.jobs)):
        state, found = _settle(state, seat, seen)
        actions += found
    state, resumes = _resume_some(state)
    actions += resumes
    return offer(state, pool)._replace(seq=state.seq + 1), tuple(actions)


def advance(state: LeaseState, moment: Moment) -> LeaseState:
    """Return the state at a moment. Time in which the node was off, or the clock went back, is not counted."""
    is_new_boot = moment.boot_id != state.tick.boot_id
    elapsed = 0.0 if is_new_boot else max(0.0, moment.boottime - state.tick.boottime)
    leases = {name: _after(lease, elapsed) for name, lease in state.leases.items()}
    if is_new_boot:  # what was seen before is not known to be so any more
        state = state._replace(cards={}, sampled=moment.boottime, down=())
    state = state._replace(leases=leases, tick=moment)
    return pass_time(state, elapsed, is_new_boot=is_new_boot)


def _after(lease: Lease, elapsed: float) -> Lease:
    """Return a lease after some time; one whose seat is being started for the first time does not get shorter."""
    if lease.state == "pending":
        return lease
    beyond = max(0.0, elapsed - lease.left_s)
    return lease._replace(
        left_s=max(0.0, lease.left_s - elapsed),
        grace_s=max(0.0, lease.grace_s - beyond),
        awake_s=max(0.0, lease.awake_s - elapsed),
    )


def _adopt(state: LeaseState, seen: Seen) -> LeaseState:
    """Return the state with leases of the seats that run without one, as after the loss of the file of leases.

    They have ADOPTED_S, which their people can renew. Where another seat has one of the GPUs by now, the seat stops.
    """
    for seat, (uid, gpus) in seen.own.items():
        if seat in state.jobs or state.of_seat(seat):
            continue
        is_taken = any(state.holder(gpu) for gpu in gpus)
        lease = Lease(f"l-{seat}-{state.seq}", seat, uid, () if is_taken else gpus, "active", ADOPTED_S, ADOPTED_TERMS)
        held = {gpu: held for gpu, held in state.held.items() if gpu not in gpus}
        state = state._replace(held=held).with_lease(lease._replace(why="adopted" if is_taken else ""))
    return state


def _note_down(state: LeaseState, seen: Seen) -> LeaseState:
    """Return the state with the seats that do not run, those that were known to be down first; unchanged if unknown."""
    if seen.running is None:
        return state
    down = {lease.seat for lease in state.leases.values()} - seen.running - set(state.jobs)
    return state._replace(down=(*(seat for seat in state.down if seat in down), *sorted(down - set(state.down))))


def _with_samples(state: LeaseState, seen: Seen) -> LeaseState:
    minutes = max(1, round((state.tick.boottime - state.sampled) / MINUTE_S))
    for lease in state.leases.values():
        samples = _sampled(lease, minutes, is_idle=seen.idle.get(lease.seat, False))
        state = state.with_lease(lease._replace(samples=samples))
    return state._replace(sampled=state.tick.boottime)


def _sampled(lease: Lease, minutes: int, *, is_idle: bool) -> Samples:
    """Return the samples with that of the last minute; the others of these minutes are missing, and count as use."""
    window = _window(lease)
    bits = (lease.samples.bits << min(minutes, window)) | is_idle
    return Samples(bits & ((1 << window) - 1), min(lease.samples.length + minutes, window))


def _window(lease: Lease) -> int:
    return int(lease.terms.idle_s / MINUTE_S)


def _is_idle(lease: Lease) -> bool:
    window = _window(lease)
    is_known = 0 < window <= lease.samples.length and not lease.awake_s
    return is_known and bin(lease.samples.bits).count("1") >= IDLE_SHARE * window


def _settle(state: LeaseState, seat: str, seen: Seen | None) -> Step:
    """Return the state in which a seat without a job has the state that its lease asks for."""
    state = state.without(*(lease for lease in state.of_seat(seat) if lease.state == "pending" and not lease.why))
    leases = state.of_seat(seat)
    if seen and seat in seen.others:  # the control machine has set it up anew: it is no seat of the broker any more
        return state.without(*leases), ()
    if not leases:
        return state, ()
    if seen is None and any(lease.state == "stopping" for lease in leases):
        return state, ()  # it could not be stopped; that is tried again once a minute
    is_down = seat in state.down
    why = _reason_to_end(state, leases, is_down=is_down)
    if why:
        return _begin_stop(state, leases, why)
    return (state, ()) if is_down else _notice(state, leases[0])


def _resume_some(state: LeaseState) -> Step:
    """Start seats that are down again, RESUMES_AT_ONCE at a time; the others follow when a job has ended."""
    actions: tuple[Action, ...] = ()
    room = RESUMES_AT_ONCE - sum(job.kind == "resume" for job in state.jobs.values())
    waiting = [leases[0] for seat in state.down for leases in [state.of_seat(seat)] if leases]
    for lease in waiting[: max(room, 0)]:
        state, begun = _with_job(state, lease, "resume")
        actions += begun
    return state, actions


def _reason_to_end(state: LeaseState, leases: Sequence[Lease], *, is_down: bool) -> str:
    """Return why the leases of a seat end now, empty if they do not. In its grace, a seat that is down stays down."""
    if any(map(is_over, leases)):
        return next((lease.why for lease in leases if lease.why), "down")
    if all(lease.left_s <= 0 and (is_down or lease.grace_s <= 0) for lease in leases):
        return "expired"
    if all(map(_is_idle, leases)):
        return "idle"
    return "crashed" if state.tries.get(leases[0].seat, 0) >= MOST_TRIES else ""


def _begin_stop(state: LeaseState, leases: Sequence[Lease], why: str) -> Step:
    state = end(state, leases, why)
    for lease in state.of_seat(leases[0].seat):
        state = state.with_lease(lease._replace(state="stopping"))
    return _with_job(state, leases[0], "stop")


def _with_job(state: LeaseState, lease: Lease, kind: str) -> Step:
    job = SeatJob(kind, f"{RUNS}{lease.id}-{kind}-{state.seq}", lease.uid)
    return state.with_job(lease.seat, job), (Action("job", lease.seat),)


def _notice(state: LeaseState, lease: Lease) -> Step:
    reached = sum(lease.left_s <= minutes * MINUTE_S for minutes in NOTICE_MINUTES)
    if reached <= lease.noticed:
        return state, ()
    state = state.with_lease(lease._replace(state="ending", noticed=reached))
    return state, (Action("notice", lease.seat, NOTICE_MINUTES[reached - 1]),)


def job_ended(state: LeaseState, seat: str, ended: str) -> LeaseState:
    """Return the state after the job of a seat has ended in the state `ended`, see FINAL_STATES of jobs/job.py.

    The job of a process that was killed (`unknown`) is to be started again, up to MOST_TRIES times; it stays then.
    """
    job = state.jobs[seat]
    if ended == "unknown" and job.tries + 1 < MOST_TRIES:
        return state.with_job(seat, job._replace(tries=job.tries + 1))
    state = state.with_job(seat, None)._replace(seq=state.seq + 1)
    if job.kind == "stop":
        return _stopped(state, seat) if ended in ("committed", "unchanged") else state
    if job.kind == "up":
        state = _started(state, seat) if ended == "committed" else _not_started(state, seat, ended)
    if job.kind == "resume" and ended != "unchanged":  # it was tried: no others were in the way
        tries = {**state.tries, seat: 0 if ended == "committed" else state.tries.get(seat, 0) + 1}
        state = state._replace(tries={name: number for name, number in tries.items() if number})
    is_unsure = ended not in ("committed", *NOTHING_STARTED) and job.kind in ("up", "upgrade")
    return end(state, state.of_seat(seat), ended) if is_unsure else state


def _stopped(state: LeaseState, seat: str) -> LeaseState:
    ended = [lease for lease in state.of_seat(seat) if lease.state == "stopping"]
    return state.without(*ended)._replace(tries={name: n for name, n in state.tries.items() if name != seat})


def _started(state: LeaseState, seat: str) -> LeaseState:
    """Return the state in which the pending lease is active, and takes the place of an older one."""
    for lease in state.of_seat(seat):
        state = state.with_lease(lease._replace(state="active")) if lease.state == "pending" else state.without(lease)
    return state


def _not_started(state: LeaseState, seat: str, ended: str) -> LeaseState:
    """Return the state without the pending lease, unless something that it started may run."""
    pending = [lease for lease in state.of_seat(seat) if lease.state == "pending"]
    if ended in NOTHING_STARTED:
        return state.without(*pending)
    return end(state, pending, ended)
