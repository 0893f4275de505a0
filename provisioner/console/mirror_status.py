"""The status of a mirror: its kind, the state of its tags, what to do, and the evidence for it."""

from collections.abc import Iterator
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from provisioner.console.problems import problems
from provisioner.console.tables import cell, make_table, state_cell
from provisioner.console.text import count, human_duration, safe_line
from provisioner.domain.forecast.feed import JobStatus
from provisioner.domain.forecast.forecast import Decision, Forecast
from provisioner.domain.forecast.mirror_status import MirrorStatus, TagStatus
from provisioner.domain.values.size import human_size
from provisioner.domain.values.sync import SyncState

DECISION_TEXT: dict[Decision, str] = {
    "move_now": "move now",
    "wait_until": "wait",
    "choose_other_tag": "do not wait: choose another tag",
    "use_other_mirror": "do not wait: use another mirror",
    "never": "never",
}


def mirror_status_view(status: MirrorStatus) -> Group:
    """Render the mirror, its tags, the problems, the decision and its evidence."""
    overall = status.forecast
    rows: list[RenderableType] = [_tags(status), Text()] if status.tags else []
    found = [("", problem) for problem in status.problems if problem != overall.problem]
    why = [problems([("", overall.problem)], "yellow")] if overall.problem is not None else []
    return Group(
        *_head(status), Text(), *rows, problems(found), _decision(status), *why, *(Text(e) for e in _evidence(overall))
    )


def _head(status: MirrorStatus) -> Iterator[Text]:
    yield Text(f"{safe_line(status.mirror)} ({status.kind}); requested: torch {safe_line(status.torch)}")
    if (profile := status.profile) is not None:
        origin = f"as of {profile.as_of}; {profile.source}. The states below are from the mirror itself."
        yield Text(f"{profile.name}: {profile.note} ({origin})")
    if status.feed is not None and (job := status.feed.job) is not None:
        due = "" if job.next_schedule is None else f", due {human_time(job.next_schedule, status.checked_at)}"
        unknown = "never" if job.status is JobStatus.NONE else "not known"
        last = unknown if job.last_success is None else human_time(job.last_success, status.checked_at)
        yield Text(f"sync job {safe_line(job.name)}: {job.status}; last success {last}{due}")


def _tags(status: MirrorStatus) -> Table:
    rows = make_table("image", "state", "upstream", "missing", "what to do", "expected", "nine of ten by")
    for row in status.tags:
        rows.add_row(
            cell(row.reference),
            state_cell(row.state),
            row.upstream.replace("_", " "),
            human_size(row.bytes_missing) if row.bytes_missing else "",
            DECISION_TEXT[row.forecast.decision],
            _time_cell(row.forecast.p50, status.checked_at),
            _time_cell(row.forecast.p90, status.checked_at),
        )
    return rows


def _decision(status: MirrorStatus) -> Text:
    forecast, decision = status.forecast, DECISION_TEXT[status.forecast.decision]
    if status.reference is not None:
        return Text(f"{decision}: {safe_line(status.reference)} is complete", "bold")
    if forecast.p50 is None or forecast.p90 is None:
        return Text(decision, "bold")
    again = (
        "" if forecast.recheck_seconds is None else f"; check again every {human_duration(forecast.recheck_seconds)}"
    )
    prior = " (prior: too few observations of this mirror for an estimate)" if forecast.is_prior else ""
    p50, p90 = (human_time(moment, status.checked_at) for moment in (forecast.p50, forecast.p90))
    return Text(f"{decision} until {p50}, at the latest {p90}{again}{prior}", "bold")


def _evidence(forecast: Forecast) -> Iterator[str]:
    for item in forecast.evidence:
        yield f"  {item.name} = {safe_line(str(item.value))}  ({safe_line(item.source)})"


def heartbeat(status: MirrorStatus, pause: float, left: float) -> str:
    """Return the log line between two readings: status, seconds until the next one, and seconds left."""
    parts = [
        f"{status.checked_at:%Y-%m-%d %H:%M} UTC",
        f"waiting for torch {safe_line(status.torch)} on {safe_line(status.mirror)}",
        _tag_summary(status.tags),
        _expectation(status.forecast, status.checked_at),
        f"next reading in {human_duration(pause)}, {human_duration(left)} left",
    ]
    return "; ".join(part for part in parts if part)


def _expectation(forecast: Forecast, now: datetime) -> str:
    if forecast.p50 is not None and forecast.p90 is not None:
        return f"expected {human_time(forecast.p50, now)}, at the latest {human_time(forecast.p90, now)}"
    code = "" if forecast.problem is None else f" ({forecast.problem.code})"
    return f"{DECISION_TEXT[forecast.decision]}{code}"


def _tag_summary(tags: tuple[TagStatus, ...]) -> str:
    partial = next((row for row in tags if row.state is SyncState.PARTIAL), None)
    if partial is not None:
        return f"{safe_line(partial.reference)} lacks {human_size(partial.bytes_missing)}"
    return f"{count(len(tags), 'tag')} known, none complete" if tags else "no such tag known"


def _time_cell(moment: datetime | None, now: datetime) -> str:
    return "" if moment is None else human_time(moment, now)


def human_time(moment: datetime, now: datetime) -> str:
    """Return a time with its distance from now: 2026-09-19 14:05 UTC (in 2:05:00 h)."""
    seconds = (moment - now).total_seconds()
    relative = (
        "now"
        if abs(seconds) < 1
        else f"in {human_duration(seconds)}"
        if seconds > 0
        else f"{human_duration(-seconds)} ago"
    )
    return f"{moment:%Y-%m-%d %H:%M} UTC ({relative})"
