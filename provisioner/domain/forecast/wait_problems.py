"""Why one should wait or not, each in the shape of a Problem: what was seen, why it matters, what to do."""

from collections.abc import Sequence
from datetime import datetime

from provisioner.domain.values.problem import Problem

_ANOTHER = "name another mirror in lab.yml, or copy the image to the lab's own registry"


def does_not_carry(mirror: str) -> Problem:
    return Problem(
        "no_such_service",
        f"{mirror} carries no images",
        "do not wait: nothing there speaks the registry protocol, so no image will appear there",
        _ANOTHER,
    )


def not_there(tag: str, nearest: Sequence[str]) -> Problem:
    return Problem(
        "never_existed",
        f"{tag} does not exist upstream",
        "a mirror has only what its upstream has: this is never, not late, unless it is released one day",
        f"choose what exists: {', '.join(nearest)}" if nearest else "widen the wish (image.torch in lab.yml)",
    )


def asked_too_often(mirror: str) -> Problem:
    return Problem(
        "rate_limited",
        f"{mirror} says: too many requests",
        "its limit is counted over hours, per account or address; a whole campus can share one",
        "log in there, or ask less often",
    )


def no_schedule(tag: str, mirror: str) -> Problem:
    return Problem(
        "no_schedule",
        f"nothing says that {tag} will come to {mirror}",
        "a registry has what somebody copied there; no feed of its syncs is known, so no date can be given",
        f"{_ANOTHER}; where it tells of its syncs, name that as mirror.feed and what it copies as mirror.upstream",
    )


def on_demand(tag: str, mirror: str) -> Problem:
    return Problem(
        "on_demand",
        f"{mirror} fetches {tag} from its upstream once it is asked for",
        "no schedule exists: it is available after the first pull, and only where the upstream then answers",
        "pull it on one machine first; `provision mirror wait` asks for it until it is whole",
    )


def stopped(mirror: str, job: str, status: str) -> Problem:
    return Problem(
        "sync_stopped", f"the job {job} of {mirror} is {status}", "do not wait: it has no next run", _ANOTHER
    )


def stalled(mirror: str, job: str, since: datetime) -> Problem:
    return Problem(
        "sync_stalled",
        f"the job {job} of {mirror} last succeeded at {since:%Y-%m-%d %H:%M} UTC",
        "do not wait: more than three of its cycles have passed without a success, and such stalls last for days",
        _ANOTHER,
    )


def not_taken(tag: str, mirror: str, job: str, runs: int) -> Problem:
    return Problem(
        "not_taken",
        f"{runs} complete runs of the job {job} of {mirror} have begun since {tag} was released; it is not there",
        "do not wait: it seems that the job leaves it out, and a success of a job says nothing of a file",
        _ANOTHER,
    )


def wait_for_it(tag: str, mirror: str, reason: str) -> Problem:
    return Problem(
        "not_yet",
        f"{mirror} does not have all of {tag} yet",
        f"{reason}; the dates say with even odds (p50) and nine times of ten (p90)",
        "block until it is complete: provision mirror wait LAB --torch SPEC",
    )
