"""Reasons to wait for a tag or not to wait, as Problems: one row for each code."""

from typing import Literal

from provisioner.domain.values.problem import Problem

WaitCode = Literal[
    "no_such_service",
    "never_existed",
    "rate_limited",
    "no_schedule",
    "on_demand",
    "sync_stopped",
    "sync_stalled",
    "not_taken",
    "not_yet",
]
_OTHER_MIRROR = "name another mirror in lab.yml, or copy the image to the lab's own registry"

_TEXTS: dict[WaitCode, tuple[str, str, str]] = {  # what, why, fix
    "no_such_service": (
        "{mirror} carries no images",
        "do not wait: nothing there speaks the registry protocol, so no image will appear there",
        _OTHER_MIRROR,
    ),
    "never_existed": (
        "{tag} does not exist upstream",
        "a mirror has only what its upstream has: this is never, not late, unless the tag is released one day",
        "{choice}",
    ),
    "rate_limited": (
        "{mirror} answers: too many requests",
        "its limit is counted over hours, per account or address; a whole campus can share one",
        "log in there, or send fewer requests",
    ),
    "no_schedule": (
        "no known schedule brings {tag} to {mirror}",
        "{reason}, so no date can be given",
        f"{_OTHER_MIRROR}; {{choice}}",
    ),
    "on_demand": (
        "{mirror} fetches {tag} from its upstream at the first request",
        "no schedule exists: the tag is available after the first pull, and only if the upstream then answers",
        "pull it on one machine first; `provision mirror wait` requests it until it is complete",
    ),
    "sync_stopped": (
        "the job {job} of {mirror} is {status}",
        "do not wait: it has no next run",
        _OTHER_MIRROR,
    ),
    "sync_stalled": (
        "the job {job} of {mirror} last succeeded at {since:%Y-%m-%d %H:%M} UTC",
        "do not wait: more than three of its cycles have passed without a success, and such stalls last for days",
        _OTHER_MIRROR,
    ),
    "not_taken": (
        "{runs} complete runs of the job {job} of {mirror} have begun since {tag} was released; it is not there",
        "do not wait: the job seems to leave it out, and the success of a job does not prove that a file is there",
        _OTHER_MIRROR,
    ),
    "not_yet": (
        "{mirror} does not have all of {tag} yet",
        "{reason}; the dates are the median (p50) and the 90th percentile (p90)",
        "block until it is complete: provision mirror wait LAB --torch SPEC",
    ),
}


def wait_problem(code: WaitCode, **values: object) -> Problem:
    """Build the Problem of `code`. `values` fill its row: `mirror` and `tag`, and what else the row names."""
    what, why, fix = (text.format(**values) for text in _TEXTS[code])
    return Problem(code, what, why, fix)
