"""When to wait and when to move: what a mirror is, how far its tags are, what to do, and the values that say so."""

from collections.abc import Iterator
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from provisioner.console.problems import problems
from provisioner.console.tables import cell, state, table
from provisioner.console.text import count, duration, line
from provisioner.domain.forecast.forecast import Decision, Forecast
from provisioner.domain.forecast.mirror_status import MirrorStatus, TagStatus
from provisioner.domain.values.size import human_size
from provisioner.domain.values.sync import SyncState

DOING: dict[Decision, str] = {
    "move_now": "move now",
    "wait_until": "wait",
    "choose_other_tag": "do not wait: choose another tag",
    "use_other_mirror": "do not wait: use another mirror",
    "never": "never",
}


def mirror_status_view(outlook: MirrorStatus) -> Group:
    told = outlook.forecast
    rows: list[RenderableType] = [_tags(outlook), Text()] if outlook.tags else []
    found = [("", problem) for problem in outlook.problems if problem != told.problem]
    why = [problems([("", told.problem)], "yellow")] if told.problem is not None else []
    return Group(
        *_head(outlook), Text(), *rows, problems(found), _decision(outlook), *why, *(Text(e) for e in _evidence(told))
    )


def _head(outlook: MirrorStatus) -> Iterator[Text]:
    yield Text(f"{line(outlook.mirror)} ({outlook.kind}); wished for: torch {line(outlook.torch)}")
    if (profile := outlook.profile) is not None:
        yield Text(f"{profile.name}: {profile.note} (as of {profile.as_of}; {profile.source}. Hearsay: it was asked.)")
    if outlook.feed is not None and (job := outlook.feed.job) is not None:
        due = "" if job.next_schedule is None else f", due {when(job.next_schedule, outlook.checked_at)}"
        last = "never" if job.last_success is None else when(job.last_success, outlook.checked_at)
        yield Text(f"its job {line(job.name)}: {job.status}; last success {last}{due}")


def _tags(outlook: MirrorStatus) -> Table:
    made = table("image", "state", "upstream", "missing", "what to do", "expected", "nine of ten by")
    for row in outlook.tags:
        told = row.forecast
        made.add_row(
            cell(row.reference),
            state(row.state),
            row.upstream.replace("_", " "),
            human_size(row.bytes_missing) if row.bytes_missing else "",
            DOING[told.decision],
            _when(told.p50, outlook.checked_at),
            _when(told.p90, outlook.checked_at),
        )
    return made


def _decision(outlook: MirrorStatus) -> Text:
    told, said = outlook.forecast, DOING[outlook.forecast.decision]
    if outlook.reference is not None:
        return Text(f"{said}: {line(outlook.reference)} is complete", "bold")
    if told.p50 is None or told.p90 is None:
        return Text(said, "bold")
    again = "" if told.recheck_seconds is None else f"; look again every {duration(told.recheck_seconds)}"
    prior = " (prior: too little was seen of it to know its habits)" if told.is_prior else ""
    until = f"until {when(told.p50, outlook.checked_at)}, at the latest {when(told.p90, outlook.checked_at)}"
    return Text(f"{said} {until}{again}{prior}", "bold")


def _evidence(told: Forecast) -> Iterator[str]:
    for given in told.evidence:
        yield f"  {given.name} = {line(str(given.value))}  ({line(given.source)})"


def heartbeat(outlook: MirrorStatus, pause: float, left: float) -> str:
    """One line for a log, between two looks."""
    parts = [
        f"{outlook.checked_at:%Y-%m-%d %H:%M} UTC",
        f"waiting for torch {line(outlook.torch)} on {line(outlook.mirror)}",
        _nearest(outlook.tags),
        _told(outlook.forecast, outlook.checked_at),
        f"next look in {duration(pause)}, {duration(left)} left",
    ]
    return "; ".join(part for part in parts if part)


def _told(told: Forecast, now: datetime) -> str:
    if told.p50 is not None and told.p90 is not None:
        return f"expected {when(told.p50, now)}, at the latest {when(told.p90, now)}"
    code = "" if told.problem is None else f" ({told.problem.code})"
    return f"{DOING[told.decision]}{code}"


def _nearest(tags: tuple[TagStatus, ...]) -> str:
    partial = next((row for row in tags if row.state is SyncState.PARTIAL), None)
    if partial is not None:
        return f"{line(partial.reference)} lacks {human_size(partial.bytes_missing)}"
    return f"{count(len(tags), 'tag')} known, none complete" if tags else "no such tag known"


def _when(moment: datetime | None, now: datetime) -> str:
    return "" if moment is None else when(moment, now)


def when(moment: datetime, now: datetime) -> str:
    """2026-09-19 14:05 UTC, in 2:05:00 h"""
    seconds = (moment - now).total_seconds()
    relative = "now" if abs(seconds) < 1 else f"in {duration(seconds)}" if seconds > 0 else f"{duration(-seconds)} ago"
    return f"{moment:%Y-%m-%d %H:%M} UTC ({relative})"
