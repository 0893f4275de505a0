"""When to wait, when to move: what to do about a tag, with the values that say so.

A feed only ever dates a wait. Whether a tag is there is said by a look at its parts, and whether it will ever be there
by its upstream: "not yet" and "never" answer alike on a mirror.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Literal

from provisioner.domain.forecast.feed import Job, JobStatus
from provisioner.domain.forecast.history import Learned, TagSeen
from provisioner.domain.forecast.schedule import missed, next_complete, stalled_since
from provisioner.domain.forecast.wait_problems import (
    asked_too_often,
    does_not_carry,
    no_schedule,
    not_taken,
    not_there,
    on_demand,
    stalled,
    stopped,
    wait_for_it,
)
from provisioner.domain.lab.lab import ON_DEMAND, MirrorKind
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.sync import SyncState

Decision = Literal["move_now", "wait_until", "choose_other_tag", "use_other_mirror", "never"]
Presence = Literal["present", "absent", "unknown", "not_asked"]
Scalar = str | int | float | bool | None

RECHECK = 600  # seconds: nobody asks a public mirror more often
_CACHE_MEMORY = 3600  # seconds for which DaoCloud's ocimirror remembers what a tag was (DaoCloud/public-image-mirror)
_HUB_WINDOW = 6 * 3600  # seconds over which Docker Hub counts pulls
_GIVEN_UP = 2  # complete runs that began after the release and did not bring it


class Evidence(Value):
    """One value that the decision rests on, and where it is from."""

    name: str
    value: Scalar
    source: str


class Forecast(Value):
    """`p50` and `p90`: by when it is there with even odds, and nine of ten times. `problem`: None where it is there."""

    decision: Decision
    p50: datetime | None = None
    p90: datetime | None = None
    recheck_seconds: int | None = None
    is_prior: bool = False
    evidence: tuple[Evidence, ...] = ()
    problem: Problem | None = None


class Question(Value):
    """Everything that is known of one tag. `others`: tags that are complete here; `nearest`: what upstream does have.

    `released`: by when it was there upstream; None where nobody has seen it there.
    """

    tag: str
    mirror: str
    state: SyncState
    upstream: Presence
    now: datetime
    kind: MirrorKind = "static"
    problems: tuple[Problem, ...] = ()
    job: Job | None = None
    learned: Learned = Learned()
    released: datetime | None = None
    looks: tuple[TagSeen, ...] = ()
    others: tuple[str, ...] = ()
    nearest: tuple[str, ...] = ()


def forecast(asked: Question) -> Forecast:
    told = _decided(asked)
    return told.model_copy(update={"evidence": (*_seen(asked), *told.evidence)})


def _decided(asked: Question) -> Forecast:
    if asked.state is SyncState.COMPLETE:
        return Forecast(decision="move_now")
    if asked.state is SyncState.NO_SUCH_SERVICE:
        return Forecast(decision="use_other_mirror", problem=_first(asked, does_not_carry(asked.mirror)))
    if asked.upstream == "absent":
        return Forecast(decision="never", problem=not_there(asked.tag, asked.nearest))
    if asked.state in (SyncState.LIMITED, SyncState.DENIED, SyncState.UNKNOWN):
        return _unanswered(asked)
    if asked.kind in ON_DEMAND or (asked.job is not None and asked.job.is_on_demand):
        return _on_demand(asked)
    return _filling(asked) or _scheduled(asked)


def _unanswered(asked: Question) -> Forecast:
    """The mirror says neither yes nor no. A limit passes by itself; of the rest nobody knows."""
    if asked.state is not SyncState.LIMITED:
        return Forecast(decision="use_other_mirror", problem=_first(asked, no_schedule(asked.tag, asked.mirror)))
    p50, p90 = (asked.now + timedelta(seconds=seconds) for seconds in (_CACHE_MEMORY, _HUB_WINDOW))
    problem = _first(asked, asked_too_often(asked.mirror))
    return Forecast(decision="wait_until", p50=p50, p90=p90, recheck_seconds=_CACHE_MEMORY, problem=problem)


def _on_demand(asked: Question) -> Forecast:
    """No schedule exists: what upstream has is there once somebody asks for it."""
    if asked.state is SyncState.COLD:
        return Forecast(decision="move_now", problem=on_demand(asked.tag, asked.mirror))
    if asked.upstream == "present":
        p50, p90 = asked.now + timedelta(seconds=RECHECK), asked.now + timedelta(seconds=_CACHE_MEMORY)
        problem = on_demand(asked.tag, asked.mirror)
        return Forecast(decision="wait_until", p50=p50, p90=p90, recheck_seconds=RECHECK, problem=problem)
    return _elsewhere(asked, no_schedule(asked.tag, asked.mirror))


def _filling(asked: Question) -> Forecast | None:
    """Somebody is copying it there now: what is missing grows less from look to look."""
    rates = [
        (before.bytes_missing - after.bytes_missing) / seconds
        for before, after in pairwise(_partial(asked.looks))
        if (seconds := (after.at - before.at).total_seconds()) > 0
    ]
    if asked.state is not SyncState.PARTIAL or not rates or rates[-1] <= 0:
        return None
    left = timedelta(seconds=asked.looks[-1].bytes_missing / rates[-1])
    p50 = max(asked.looks[-1].at + left, asked.now)
    seen = Evidence(name="bytes_per_second", value=round(rates[-1]), source="our looks at its layers")
    problem = wait_for_it(asked.tag, asked.mirror, "what is missing of it grows less from look to look")
    return Forecast(
        decision="wait_until",
        p50=p50,
        p90=max(asked.looks[-1].at + 3 * left, p50),
        recheck_seconds=RECHECK,
        is_prior=True,
        evidence=(seen,),
        problem=problem,
    )


def _partial(looks: Sequence[TagSeen]) -> list[TagSeen]:
    return [look for look in looks if look.state is SyncState.PARTIAL]


def _scheduled(asked: Question) -> Forecast:
    job, learned = asked.job, asked.learned
    if job is None or (job.status is JobStatus.UNKNOWN and job.next_schedule is None and job.last_success is None):
        return _elsewhere(asked, no_schedule(asked.tag, asked.mirror))
    habits = _habits(learned)
    if job.status in (JobStatus.PAUSED, JobStatus.DISABLED):
        return _elsewhere(asked, stopped(asked.mirror, job.name, job.status.value), habits)
    if (since := stalled_since(job, learned, asked.now)) is not None:
        return _elsewhere(asked, stalled(asked.mirror, job.name, since), habits)
    released = asked.released or asked.now
    if (runs := missed(learned, released)) >= _GIVEN_UP:
        return _elsewhere(asked, not_taken(asked.tag, asked.mirror, job.name, runs), habits)
    expected = next_complete(job, learned, released, asked.now)
    return Forecast(
        decision="wait_until",
        p50=expected.p50,
        p90=expected.p90,
        recheck_seconds=RECHECK,
        is_prior=learned.is_prior,
        evidence=habits,
        problem=wait_for_it(asked.tag, asked.mirror, f"its job {job.name} is expected to bring it"),
    )


def _elsewhere(asked: Question, problem: Problem, habits: tuple[Evidence, ...] = ()) -> Forecast:
    """Do not wait: a tag that is complete here is nearer than another mirror."""
    if not asked.others:
        return Forecast(decision="use_other_mirror", evidence=habits, problem=problem)
    fix = f"complete here and near the wish: {', '.join(asked.others)}; or {problem.fix}"
    return Forecast(decision="choose_other_tag", evidence=habits, problem=problem.model_copy(update={"fix": fix}))


def _first(asked: Question, otherwise: Problem) -> Problem:
    return next(iter(asked.problems), otherwise)


def _seen(asked: Question) -> tuple[Evidence, ...]:
    given = [
        Evidence(name="state", value=asked.state.value, source=f"a look at {asked.mirror}"),
        Evidence(name="upstream", value=asked.upstream, source="the upstream's list of tags"),
    ]
    if asked.released is not None:
        given.append(Evidence(name="released_by", value=_at(asked.released), source="first seen upstream by us"))
    if (job := asked.job) is not None:
        given += [
            Evidence(name=name, value=_at(value) if isinstance(value, datetime) else value, source="the mirror's feed")
            for name, value in job.model_dump(exclude={"name", "upstream", "size"}).items()
            if value is not None
        ]
    return tuple(given)


def _habits(learned: Learned) -> tuple[Evidence, ...]:
    source = "prior: fewer than 5 runs seen" if learned.is_prior else f"{learned.finished} runs that we saw"
    values = {
        "interval_seconds": round(learned.interval),
        "run_seconds_p50": round(learned.run[0]),
        "run_seconds_p90": round(learned.run[1]),
        "lag_seconds_p50": round(learned.lag[0]),
        "lag_seconds_p90": round(learned.lag[1]),
        "failed_share": round(learned.failed, 2),
    }
    return tuple(Evidence(name=name, value=value, source=source) for name, value in values.items())


def _at(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
