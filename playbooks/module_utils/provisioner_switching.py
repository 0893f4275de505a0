"""From the old generation to the new one, or back: a seat ends on one of them, whenever and wherever it is stopped.

The journal says what is about to happen; moving `current` is the one moment after which the new generation is in force.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any, Callable

from ansible.module_utils import provisioner_engine as engine
from ansible.module_utils.provisioner_busy import consent, is_up
from ansible.module_utils.provisioner_claims import check
from ansible.module_utils.provisioner_compose import Compose
from ansible.module_utils.provisioner_host import Fault, refused_by_system, write_whole
from ansible.module_utils.provisioner_identity import host_key
from ansible.module_utils.provisioner_job import bug
from ansible.module_utils.provisioner_jobfile import Job
from ansible.module_utils.provisioner_journal import Journal
from ansible.module_utils.provisioner_moved import check_unmoved, moved_by
from ansible.module_utils.provisioner_precheck import check_ports, wait_for_addresses
from ansible.module_utils.provisioner_seat import Seat, seat_of
from ansible.module_utils.provisioner_verify import close_doors, verify

KEEP = "provisioner/keep"  # repository of the tags that keep images from being pruned
TRIES = 2  # at going back
ATTEMPTS = 3  # at ending one switch, each of which a kill or a power cut may have ended
ENGINE_SECONDS = 60
ADDRESS_SECONDS = 600  # in which somebody plugs a cable in again; meanwhile nobody could reach the seat in any case
CHECK_SECONDS = 120  # in which a check of ours that nobody follows any more has ended

Tell = Callable[..., None]


def switch(order: dict[str, Any], job: Job, lock: int) -> dict[str, Any]:
    """The record. Raises Fault where nothing was touched."""
    seat = seat_of(order)
    compose, journal = Compose(seat, (lock,)), Journal(seat.folder, order["run"])
    check_unmoved(seat, journal, order)
    check_sound(compose, journal)
    recover(compose, journal, order, job.tell)
    if moved_by(seat, journal, order["run"]):
        return committed(seat)
    _ready(seat, order)  # what cannot be had is told before anybody is waited for
    consent(compose, journal, order, job.tell)
    check(order["state_root"], order.get("claim"))  # to wait for somebody may have taken hours
    old = seat.current()
    record = transact(compose, journal, _ready(seat, order), order, job.tell)
    if record["state"] == "committed":
        tidy(seat, {record["generation"], old})
    return record


def _ready(seat: Seat, order: dict[str, Any]) -> int:
    """The generation to switch to. Things may have changed since staging, and nothing old has stopped yet."""
    number = seat.staged(order)
    if not number or engine.image(order["image"]["reference"]) is None:
        raise Fault(
            "not_staged",
            f"the node does not hold what it is to switch to ({order['image']['tag']})",
            "nothing old is stopped before all that is new has arrived; something removed it since then",
            "run the rollout again",
        )
    check_ports(order["seat"])
    return number


def transact(compose: Compose, journal: Journal, number: int, order: dict[str, Any], tell: Tell) -> dict[str, Any]:
    seat = compose.seat
    journal.append("switching", to=number, back=_way_back(compose))
    try:
        tell("starting the new containers", phase="switch")
        compose.up(number)
        journal.append("verifying", to=number)
        tell("waiting until it is healthy", phase="verify")
        seen = verify(compose, number, order, tell)
        seat.commit(number)
    except Exception as error:  # noqa: BLE001  (whatever it was, the seat must go back)
        if seat.current() != number:  # else it was moved, and only the folder could not be synced
            return _undone(compose, journal, number, _told(error), tell)
    _note(journal, "committed", generation=number, host_key=host_key(seat))
    return {**committed(seat), **seen}


def _undone(compose: Compose, journal: Journal, number: int, problem: dict[str, str], tell: Tell) -> dict[str, Any]:
    with contextlib.suppress(Fault, OSError):  # going back matters more
        write_whole(compose.seat.generation(number) / "failure.log", compose.logs())
    return go_back(compose, journal, problem, tell)


def _note(journal: Journal, state: str, **detail: Any) -> None:
    """Of a transaction that is open on disk: what the disk does not take now, the next contact finds out by itself."""
    with contextlib.suppress(Fault):
        journal.append(state, **detail)


def _way_back(compose: Compose) -> int:
    """The current generation; 0, nothing, where its image is gone with its containers.

    Raises Fault where they run without it: once stopped, they could not be started again.
    """
    seat, old = compose.seat, compose.seat.current()
    if not old or engine.image(seat.order(old)["image"]["reference"]):
        return old
    if is_up(compose):
        raise _no_way_back(seat, old)
    return 0


def _no_way_back(seat: Seat, old: int) -> Fault:
    reference = seat.order(old)["image"]["reference"]
    return Fault(
        "no_way_back",
        f"{seat.name} runs generation {old}, whose image was removed from the node by force",
        "if the new generation failed, the old one could not be started again",
        f"bring it back on the node (docker pull {reference}), or take the seat down first: provision remove",
    )


def go_back(compose: Compose, journal: Journal, problem: dict[str, str], tell: Tell) -> dict[str, Any]:
    """Undoes the open transaction. `problem` is why."""
    close_doors(compose.seat)
    step = journal.interrupted() or {}
    old = step["detail"]["back"]
    _note(journal, "rolling_back", to=old, because=problem["code"])
    tell("going back to what ran before", phase="switch")
    failure = problem
    for _ in range(TRIES):
        try:
            _restore(compose, old, tell)
        except Exception as error:  # noqa: BLE001  (told, below, as what needs attention)
            failure = _told(error)
        else:
            _note(journal, "rolled_back", generation=old, because=problem["code"])
            return {"state": "rolled_back", "generation": old, "problems": [problem]}
    _note(journal, "needs_attention", because=failure["code"])
    return {"state": "needs_attention", "generation": old, "problems": [problem, failure]}


def _restore(compose: Compose, old: int, tell: Tell) -> None:
    engine.wait_for_engine(ENGINE_SECONDS)
    if not old:
        compose.down()
        return
    order = compose.seat.order(old)
    wait_for_addresses(order["seat"], ADDRESS_SECONDS)
    compose.up(old)
    compose.wait_healthy(time.monotonic() + order["deadlines"]["healthy"], tell)


def _told(error: Exception) -> dict[str, str]:
    if isinstance(error, OSError):
        return refused_by_system(error).problem
    return error.problem if isinstance(error, Fault) else bug()


class Stuck(Fault):
    """Neither the new generation nor the old one could be brought up; no program tries again by itself."""

    state = "needs_attention"


def check_sound(compose: Compose, journal: Journal) -> None:
    """Raises Stuck where a person is needed: until they go back, remove or stop the seat, or it is healthy again."""
    last = journal.standing()
    if last and last["state"] == "needs_attention" and set(compose.services().values()) != {"healthy"}:
        raise _stuck(compose.seat, _since(last))


def recover(compose: Compose, journal: Journal, order: dict[str, Any], tell: Tell) -> None:
    """Ends what a killed process left open. Raises Fault where going back fails, too, or someone is at work by now."""
    step = journal.interrupted()
    if step is None:
        return
    engine.wait_for_engine(0)  # without one this is not the moment
    close_doors(compose.seat)
    if compose.seat.current() == step["detail"]["to"]:
        journal.append("committed", generation=step["detail"]["to"], recovered=True)
        return
    if journal.attempts() >= ATTEMPTS:
        journal.append("needs_attention", because="recovery_loops")
        raise _stuck(compose.seat, _loops(step))
    consent(compose, journal, _patient(order), tell)
    record = go_back(compose, journal, _interrupted(step), tell)
    if record["state"] == "needs_attention":
        raise _stuck(compose.seat, record["problems"][-1])


def _patient(order: dict[str, Any]) -> dict[str, Any]:
    """A check on the GPUs that was cut off with the job may still compute: it ends by itself."""
    wish = order.get("when_busy") or {}
    if wish.get("policy", "defer") != "defer":
        return order
    return {**order, "when_busy": {"policy": "wait", "seconds": CHECK_SECONDS}}


def tidy(seat: Seat, keep: set[int]) -> None:
    """Removes all other generations and, where no seat keeps them, their images. What fails waits for the next time."""
    for number in seat.numbers():
        if number not in keep:
            with contextlib.suppress(Fault, OSError):
                _drop_image(seat, number)
                seat.forget(number)


def _drop_image(seat: Seat, number: int) -> None:
    reference = seat.order(number)["image"]["reference"]
    engine.untag(f"{KEEP}:{seat.tag(number)}")
    names = (engine.image(reference) or {}).get("RepoTags") or []
    if not any(name.startswith(f"{KEEP}:") for name in names):
        engine.untag(reference)


def committed(seat: Seat) -> dict[str, Any]:
    """The record of a seat that a run has brought to where it is."""
    number = seat.current()
    return {"state": "committed", "generation": number, "access": _access(seat, seat.order(number)["seat"])}


def _access(seat: Seat, wanted: dict[str, Any]) -> dict[str, str]:
    binds, ports = wanted["binds"], wanted["ports"]
    return {
        "jupyter": f"http://{binds['jupyter']}:{ports['jupyter']}/lab",
        "ssh": f"ssh -p {ports['ssh']} {wanted['user']}@{binds['ssh']}",
        "host_key": host_key(seat),
    }


def _interrupted(step: dict[str, Any]) -> dict[str, str]:
    return {
        "code": "interrupted",
        "what": f"run {step['run']} was cut off in the middle of its switch, at {step['at']}",
        "why": "its process was killed or the node lost power; the seat goes back to what ran before",
        "fix": "nothing: the run that found it goes on from there",
    }


def _loops(step: dict[str, Any]) -> dict[str, str]:
    return {
        "what": f"{ATTEMPTS} attempts to end the switch of run {step['run']} were cut off themselves",
        "why": "the node restarts or kills the work again and again; going on by itself would never end",
        "fix": "find out why (journalctl -k), then go back or remove the seat",
    }


def _since(last: dict[str, Any]) -> dict[str, str]:
    return {
        "what": f"going back failed at {last['at']}, run {last['run']}: {last['detail'].get('because')}",
        "why": "no program tries again by itself, and nothing else is done to the seat until a person has looked",
        "fix": "`provision rollback` or `provision remove`; neither home nor token nor host key is lost",
    }


def _stuck(seat: Seat, problem: dict[str, str]) -> Stuck:
    return Stuck(
        "needs_attention",
        f"{seat.name} could not be brought back: {problem['what']}",
        problem["why"],
        f"look at it on the node: docker compose -p {seat.name} ps -a; then {problem['fix']}",
    )
