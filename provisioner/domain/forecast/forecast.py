"""Forecast of when a mirror will have a tag, the decision that follows, and the evidence for it.

A feed only dates a wait. A check of its parts shows whether a tag is there, and the upstream shows whether it will
ever be there: a mirror gives the same answer for "not yet" and "never".
"""

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Literal

from provisioner.domain.forecast.feed import Job, JobStatus
from provisioner.domain.forecast.history import JobStatistics, TagObservation
from provisioner.domain.forecast.schedule import count_missed_runs, next_complete, stalled_since, undated_because
from provisioner.domain.forecast.wait_problems import WaitCode, wait_problem
from provisioner.domain.lab.lab import ON_DEMAND, MirrorKind
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.sync import SyncState

Decision = Literal["move_now", "wait_until", "choose_other_tag", "use_other_mirror", "never"]
Presence = Literal["present", "absent", "unknown", "not_asked"]
Scalar = str | int | float | bool | None

RECHECK = 600  # seconds between two requests to a public mirror, at least
_CACHE_MEMORY = 3600  # seconds for which DaoCloud's ocimirror caches what a tag names (DaoCloud/public-image-mirror)
_HUB_WINDOW = 6 * 3600  # seconds over which Docker Hub counts pulls
_MAX_RUNS_WITHOUT_TAG = 2  # complete runs that began after the release and did not bring the tag


class Evidence(Value):
    """One value that the decision is based on, and its source."""

    name: str
    value: Scalar
    source: str


class Forecast(Value):
    """The decision for a tag. `problem`: None where the tag is complete.

    `p50` and `p90`: times by which the tag is there with a probability of 50 and 90 per cent.
    """

    decision: Decision
    p50: datetime | None = None
    p90: datetime | None = None
    recheck_seconds: int | None = None
    is_prior: bool = False
    evidence: tuple[Evidence, ...] = ()
    problem: Problem | None = None


class ForecastInput(Value):
    """Everything that is known of one tag.

    `others`: tags that are complete on the mirror. `nearest`: similar tags that the upstream has. `released`: a time
    by which the upstream had the tag; None if it was never seen there.
    """

    tag: str
    mirror: str
    state: SyncState
    upstream: Presence
    now: datetime
    kind: MirrorKind = "static"
    problems: tuple[Problem, ...] = ()
    job: Job | None = None
    learned: JobStatistics = JobStatistics()
    released: datetime | None = None
    looks: tuple[TagObservation, ...] = ()
    others: tuple[str, ...] = ()
    nearest: tuple[str, ...] = ()


def forecast(known: ForecastInput) -> Forecast:
    """Decide whether to wait for the tag, and until when; with the evidence for it."""
    decided = _decide(known)
    return decided.model_copy(update={"evidence": (*_evidence(known), *decided.evidence)})


def _decide(known: ForecastInput) -> Forecast:
    if known.state is SyncState.COMPLETE:
        return Forecast(decision="move_now")
    if known.state is SyncState.NO_SUCH_SERVICE:
        return Forecast(decision="use_other_mirror", problem=_first_problem(known, _problem(known, "no_such_service")))
    if known.upstream == "absent":
        names = ", ".join(known.nearest)
        choice = f"choose what exists: {names}" if names else "widen the requested range (image.torch in lab.yml)"
        return Forecast(decision="never", problem=_problem(known, "never_existed", choice=choice))
    if known.state in (SyncState.LIMITED, SyncState.DENIED, SyncState.UNKNOWN):
        return _without_answer(known)
    if known.kind in ON_DEMAND or (known.job is not None and known.job.is_on_demand):
        return _on_demand(known)
    return _from_progress(known) or _from_schedule(known)


def _without_answer(known: ForecastInput) -> Forecast:
    """Forecast where the mirror answers neither yes nor no. Only a rate limit is known to pass."""
    if known.state is not SyncState.LIMITED:
        return Forecast(decision="use_other_mirror", problem=_first_problem(known, _no_schedule(known)))
    p50, p90 = (known.now + timedelta(seconds=seconds) for seconds in (_CACHE_MEMORY, _HUB_WINDOW))
    problem = _first_problem(known, _problem(known, "rate_limited"))
    return Forecast(decision="wait_until", p50=p50, p90=p90, recheck_seconds=_CACHE_MEMORY, problem=problem)


def _on_demand(known: ForecastInput) -> Forecast:
    """Forecast for a cache. It has no schedule: what the upstream has is available after the first request."""
    problem = _problem(known, "on_demand")
    if known.state is SyncState.COLD:
        return Forecast(decision="move_now", problem=problem)
    if known.upstream == "present":
        p50, p90 = (known.now + timedelta(seconds=seconds) for seconds in (RECHECK, _CACHE_MEMORY))
        return Forecast(decision="wait_until", p50=p50, p90=p90, recheck_seconds=RECHECK, problem=problem)
    return _do_not_wait(known, _no_schedule(known))


def _from_progress(known: ForecastInput) -> Forecast | None:
    """Extrapolate a copy that is in progress: fewer bytes are missing from check to check. None if there is none."""
    partial = [look for look in known.looks if look.state is SyncState.PARTIAL]
    rates = [
        (before.bytes_missing - after.bytes_missing) / seconds
        for before, after in pairwise(partial)
        if (seconds := (after.at - before.at).total_seconds()) > 0
    ]
    if known.state is not SyncState.PARTIAL or not rates or rates[-1] <= 0:
        return None
    left = timedelta(seconds=known.looks[-1].bytes_missing / rates[-1])
    p50 = max(known.looks[-1].at + left, known.now)
    rate = Evidence(name="bytes_per_second", value=round(rates[-1]), source="earlier checks of its layers")
    return Forecast(
        decision="wait_until",
        p50=p50,
        p90=max(known.looks[-1].at + 3 * left, p50),
        recheck_seconds=RECHECK,
        is_prior=True,
        evidence=(rate,),
        problem=_problem(known, "not_yet", reason="a copy is in progress: fewer bytes are missing from check to check"),
    )


def _from_schedule(known: ForecastInput) -> Forecast:
    job, learned = known.job, known.learned
    if job is None:
        return _do_not_wait(known, _no_schedule(known))
    statistics = _statistics_evidence(learned)
    if job.status in (JobStatus.PAUSED, JobStatus.DISABLED):
        problem = _problem(known, "sync_stopped", job=job.name, status=job.status.value)
        return _do_not_wait(known, problem, statistics)
    if (since := stalled_since(job, learned, known.now)) is not None:
        return _do_not_wait(known, _problem(known, "sync_stalled", job=job.name, since=since), statistics)
    released = known.released or known.now
    if (runs := count_missed_runs(learned, released)) >= _MAX_RUNS_WITHOUT_TAG:
        return _do_not_wait(known, _problem(known, "not_taken", job=job.name, runs=runs), statistics)
    if (lacks := undated_because(job, learned, known.now)) is not None:
        return _do_not_wait(known, _no_schedule(known, lacks))
    expected = next_complete(job, learned, released, known.now)
    return Forecast(
        decision="wait_until",
        p50=expected.p50,
        p90=expected.p90,
        recheck_seconds=RECHECK,
        is_prior=learned.is_prior,
        evidence=statistics,
        problem=_problem(known, "not_yet", reason=f"its job {job.name} is expected to bring it"),
    )


def _do_not_wait(known: ForecastInput, problem: Problem, statistics: tuple[Evidence, ...] = ()) -> Forecast:
    """Prefer another tag that is complete on this mirror to another mirror."""
    if not known.others:
        return Forecast(decision="use_other_mirror", evidence=statistics, problem=problem)
    fix = f"complete here and close to the request: {', '.join(known.others)}; or {problem.fix}"
    return Forecast(decision="choose_other_tag", evidence=statistics, problem=problem.model_copy(update={"fix": fix}))


def _problem(known: ForecastInput, code: WaitCode, **values: object) -> Problem:
    return wait_problem(code, tag=known.tag, mirror=known.mirror, **values)


def _no_schedule(known: ForecastInput, lacks: str | None = None) -> Problem:
    """`lacks`: what the feed of the mirror does not say; None without a feed."""
    if lacks is not None:
        choice = "or ask those who run it for a feed with the times of the last and the next run"
        return _problem(known, "no_schedule", reason=lacks, choice=choice)
    reason = "the registry has only what was copied to it, and there is no usable feed of its syncs"
    choice = "if it publishes its syncs, set mirror.feed to their address and mirror.upstream"
    return _problem(known, "no_schedule", reason=reason, choice=choice)


def _first_problem(known: ForecastInput, otherwise: Problem) -> Problem:
    return next(iter(known.problems), otherwise)


def _evidence(known: ForecastInput) -> tuple[Evidence, ...]:
    rows = [
        Evidence(name="state", value=known.state.value, source=f"a check of {known.mirror}"),
        Evidence(name="upstream", value=known.upstream, source="the upstream's list of tags"),
    ]
    if known.released is not None:
        rows.append(Evidence(name="released_by", value=_iso(known.released), source="first observed upstream"))
    if (job := known.job) is not None:
        rows += [
            Evidence(name=name, value=_iso(value) if isinstance(value, datetime) else value, source="the mirror's feed")
            for name, value in job.model_dump(exclude={"name", "upstream", "size"}).items()
            if value is not None
        ]
    return tuple(rows)


def _statistics_evidence(learned: JobStatistics) -> tuple[Evidence, ...]:
    source = "prior: fewer than 5 runs observed" if learned.is_prior else f"{learned.finished} observed runs"
    values = {
        "interval_seconds": round(learned.interval),
        "run_seconds_p50": round(learned.run[0]),
        "run_seconds_p90": round(learned.run[1]),
        "lag_seconds_p50": round(learned.lag[0]),
        "lag_seconds_p90": round(learned.lag[1]),
        "failed_share": round(learned.failed, 2),
    }
    return tuple(Evidence(name=name, value=value, source=source) for name, value in values.items())


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
